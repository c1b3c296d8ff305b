"""ECA, Efficient Channel Attention (Wang et al., CVPR 2020, https://arxiv.org/abs/1910.03151)."""

import math

import torch
from torch import Tensor, nn

from bam.attention.contract import check_counts, identity_scale
from bam.attention.reweighting import Reweighting, Weights


def adaptive_kernel_size(channels: int) -> int:
    """The kernel size log2(C) / 2 + 1 / 2 (equation 12), rounded as in the released code: down, then up to odd."""
    size = int((math.log2(channels) + 1) / 2)
    return size if size % 2 else size + 1


class ECA(Reweighting):
    """F' = F * sigmoid(C1D_k(AvgPool(F))), (N, C, H, W) in and out (equation 9).

    A convolution over k neighbouring channels replaces SE's two layers. The paper puts it where SE is: on the
    residual branch of every block.

    Args:
        channels: C of the feature map.
        kernel_size: k, odd; None for the `adaptive_kernel_size` of C.
        identity: blend in the weights by a learned scalar that starts at 0, see `Reweighting`.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Submodule: `mix`, the convolution with k weights and no bias.

    Raises:
        ValueError: for channels below 1, an even kernel size, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | None = None,
        identity: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        size = adaptive_kernel_size(channels) if kernel_size is None else kernel_size
        check_counts("ECA", kernel_size=size)
        if size % 2 == 0:
            raise ValueError(f"ECA: kernel_size must be odd, got {size}")
        self.mix = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, device=device, dtype=dtype)
        self.scale = identity_scale(identity, device, dtype)

    def weights(self, features: Tensor) -> Weights:
        """The channels' weights and their logits."""
        logits = self.mix(features.mean((2, 3))[:, None])[:, 0, :, None, None].to(features.dtype)
        return Weights(logits.sigmoid(), logits)
