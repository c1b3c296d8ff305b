"""ECA, Efficient Channel Attention (Wang et al., CVPR 2020, https://arxiv.org/abs/1910.03151)."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from bam.attention.contract import AttentionMaps, AttentionModule, check_counts, check_features, gain, reweight

torch.fx.wrap("check_features")  # branches on the shape of its input, so torch.fx must not trace into it


def adaptive_kernel_size(channels: int) -> int:
    """The odd number for log2(C) / 2 + 1 / 2 (equation 12), rounded as in the released code: down, then up to odd."""
    whole = int((math.log2(channels) + 1) / 2)
    return whole if whole % 2 else whole + 1


class ECA(AttentionModule):
    """F' = F * sigmoid(C1D_k(AvgPool(F))), (N, C, H, W) in and out (equation 9).

    A convolution over k neighbouring channels replaces SE's two layers. The paper puts it where SE is: on the
    residual branch of every block.

    Args:
        channels: C of the feature map.
        kernel_size: k, odd; None for the `adaptive_kernel_size` of C.
        identity: blend the weights M in by a learned scalar that starts at 0, F * (1 + w * (M - 1)): at construction
            the output is the (finite) input bit for bit, and w = 1 is ECA.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Sub-module: `mix`, the convolution with k weights and no bias.

    Raises:
        ValueError: for channels below 1, an even kernel size, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    usual_sites: ClassVar[str] = "every block"
    is_pointwise: ClassVar[bool] = True
    keeps_nan: ClassVar[bool] = True
    starts_as_identity: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        kernel_size: int | None = None,
        identity: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts("ECA", channels=channels)
        size = adaptive_kernel_size(channels) if kernel_size is None else kernel_size
        check_counts("ECA", kernel_size=size)
        if size % 2 == 0:
            raise ValueError(f"ECA: kernel_size must be odd, got {size}")
        self.channels = channels
        self.mix = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, device=device, dtype=dtype)
        self.scale = nn.Parameter(torch.zeros(1, device=device, dtype=dtype)) if identity else None

    def forward(self, features: Tensor) -> Tensor:
        """Refine features (N, C, H, W) into the same shape, type and layout."""
        return reweight(features, self._logits(features).sigmoid(), self.scale)

    def _logits(self, features: Tensor) -> Tensor:
        check_features(features, self.channels, "ECA")
        logits = self.mix(features.mean((2, 3))[:, None])
        return logits[:, 0, :, None, None].to(features.dtype)

    def maps(self, features: Tensor) -> AttentionMaps:
        """The channel logits, their sigmoid and the gain; the identity's scalar only affects the gain."""
        logits = self._logits(features)
        return AttentionMaps(gain(features, self(features)), logits, combined=logits.sigmoid())

    def extra_repr(self) -> str:
        """The options that `print(model)` shows."""
        return f"{self.channels}{', identity=True' if self.scale is not None else ''}"
