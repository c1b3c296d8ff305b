"""SimAM (Yang, Zhang, Li, Xie, ICML 2021, https://proceedings.mlr.press/v139/yang21o.html)."""

from typing import ClassVar

import torch
from torch import Tensor

from bam.attention.contract import identity_scale
from bam.attention.reweighting import Reweighting, Weights


class SimAM(Reweighting):
    """F' = F * sigmoid(1 / E), (N, C, H, W) in and out (equation 6), without parameters.

    1 / E = (F - mu)^2 / (4 (sigma^2 + regularization)) + 1/2 is the inverse of the least energy (equation 5), with the
    mean mu and the variance sigma^2 of each channel over its H W places: a value far from its channel's mean counts
    more. As in the paper, the variance divides by H W, so a 1x1 map works; the released code divides by H W - 1.
    The paper puts it on the residual branch of every block.

    Args:
        channels: C of the feature map.
        regularization: lambda, above 0.
        identity: blend in the map by a learned scalar that starts at 0, see `Reweighting`. The scalar is then the only
            parameter.
        device: device of the scalar.
        dtype: floating-point type of the scalar.

    Raises:
        ValueError: for channels below 1, a regularization that is not above 0, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    shown_options: ClassVar[tuple[str, ...]] = ("regularization",)

    def __init__(
        self,
        channels: int,
        regularization: float = 1e-4,
        identity: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        if not regularization > 0:
            raise ValueError(f"SimAM: regularization must be above 0, got {regularization!r}")
        self.regularization = regularization
        self.scale = identity_scale(identity, device, dtype)

    def weights(self, features: Tensor) -> Weights:
        """The map sigmoid(1 / E), (N, C, H, W)."""
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        squared = (wide - wide.mean((2, 3), keepdim=True)).square()
        variance = squared.mean((2, 3), keepdim=True)
        return Weights((squared / (4 * (variance + self.regularization)) + 0.5).sigmoid().to(features.dtype))
