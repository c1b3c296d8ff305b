"""The specification of the gate and of `pool_and_reduce`, in plain operations.

The other files compute the same results faster. Compilers, exporters and `torch.func` use these functions directly.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bam.kernels.layout import is_channels_last

#: Ways to combine the logits of both branches before the sigmoid. The paper compares all three and chooses "sum".
COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "product": torch.mul, "max": torch.maximum}


def gate(
    features: Tensor, channel_logits: Tensor | None, spatial_logits: Tensor | None, scale: Tensor | None, combine: str
) -> Tensor:
    """F' = F + s * F * M(F) (BAM, equation 1, https://arxiv.org/abs/1807.06514; s is 1 without `scale`).

    All tensors have the same type, and shapes that broadcast.
    """
    attention = attention_map(features, channel_logits, spatial_logits, combine)
    return torch.addcmul(features, features, attention if scale is None else attention * scale)


def attention_map(
    features: Tensor, channel_logits: Tensor | None, spatial_logits: Tensor | None, combine: str
) -> Tensor:
    """M(F) = sigmoid(Mc(F) + Ms(F)) (equation 2), in the memory layout of F.

    The logits (N, C, 1, 1) and (N, 1, H, W) do not determine a layout, so their plain sum would be stored as NCHW.
    """
    if not is_channels_last(features):
        return _sigmoid_of_both(channel_logits, spatial_logits, combine)
    mc, ms = (None if t is None else t.permute(0, 2, 3, 1) for t in (channel_logits, spatial_logits))
    return _sigmoid_of_both(mc, ms, combine).permute(0, 3, 1, 2)


def _sigmoid_of_both(channel_logits: Tensor | None, spatial_logits: Tensor | None, combine: str) -> Tensor:
    if channel_logits is not None and spatial_logits is not None:
        return COMBINE[combine](channel_logits, spatial_logits).sigmoid_()
    alone = spatial_logits if channel_logits is None else channel_logits
    assert alone is not None
    return alone.sigmoid()


def is_separable(features: Tensor, channel_logits: Tensor | None, spatial_logits: Tensor | None, combine: str) -> bool:
    """Whether the map is the sigmoid of the sum of (N, C, 1, 1) and (N, 1, H, W), so that `exp_neg` gives it."""
    if channel_logits is None or spatial_logits is None or combine != "sum":
        return False
    n, c, h, w = features.shape
    return channel_logits.shape == (n, c, 1, 1) and spatial_logits.shape == (n, 1, h, w)


def exp_neg(logits: Tensor) -> Tensor:
    """exp(-x), as sigmoid(x + y) = 1 / (1 + exp(-x) exp(-y)) takes one exponential per channel and place.

    Logits are limited to 87, so that neither exponential is 0 or infinite. This matters only where larger ones cancel:
    100 and -90 give sigmoid(0), not sigmoid(10).
    """
    return logits.clamp(-87, 87).neg().exp()


def pool_and_reduce(features: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(F, AvgPool(F), f0(F)): features (N, C, H, W) -> (N, C, H, W), (N, C) and (N, c, H, W)."""
    return features, features.mean((2, 3)), F.conv2d(features, weight, bias)


def convolve(features: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """A 1x1 or dilated 3x3 convolution that keeps H and W: (N, c, H, W) -> (N, c', H, W)."""
    return F.conv2d(features, weight, bias, padding=dilation * (weight.shape[2] // 2), dilation=dilation)
