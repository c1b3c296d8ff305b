"""The specification: what the gate and `pool_and_reduce` compute, in plain operations.

The other files compute the same, faster; compilers, exporters and `torch.func` get these functions themselves.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: How the two branches become one map, before the sigmoid (paper, ablation over combining; "sum" is its choice).
COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "product": torch.mul, "max": torch.maximum}


def gate(
    features: Tensor, channel_logits: Tensor | None, spatial_logits: Tensor | None, scale: Tensor | None, combine: str
) -> Tensor:
    """F' = F + s * F * M(F) (BAM, equation 1, https://arxiv.org/abs/1807.06514; s is 1 without `scale`).

    All tensors have one type; their shapes may be any that broadcast.
    """
    attention = attention_map(features, channel_logits, spatial_logits, combine)
    return torch.addcmul(features, features, attention if scale is None else attention * scale)


def attention_map(
    features: Tensor, channel_logits: Tensor | None, spatial_logits: Tensor | None, combine: str
) -> Tensor:
    """M(F) = sigmoid(Mc(F) + Ms(F)) (equation 2), in the memory layout of F.

    (N, C, 1, 1) + (N, 1, H, W) has no layout of its own and would become NCHW.
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


def pool_and_reduce(features: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(F, AvgPool(F), f0(F)): features (N, C, H, W) -> (N, C, H, W), (N, C) and (N, c, H, W)."""
    return features, features.mean((2, 3)), F.conv2d(features, weight, bias)


def is_channels_last(features: Tensor) -> bool:
    """Whether a tensor is an (N, C, H, W) that is stored as NHWC and not also as NCHW.

    `Tensor.is_contiguous(memory_format=torch.channels_last)` fails under `torch.func.vmap`; this does not.
    """
    return features.dim() == 4 and not features.is_contiguous() and features.permute(0, 2, 3, 1).is_contiguous()
