"""SimAM (Yang, Zhang, Li, Xie, ICML 2021, https://proceedings.mlr.press/v139/yang21o.html)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bam.attention.contract import AttentionMaps, AttentionModule, check_counts, check_features, gain, reweight

torch.fx.wrap("check_features")  # branches on the shape of its input, so torch.fx must not trace into it


class SimAM(AttentionModule):
    """F' = F * sigmoid(1 / E), (N, C, H, W) in and out (equation 6), without parameters.

    1 / E = (F - mu)^2 / (4 (sigma^2 + regularization)) + 1/2 is the inverse of the least energy (equation 5), with the
    mean mu and the variance sigma^2 of each channel over its H W places: a value far from its channel's mean counts
    more. As in the paper the variance divides by H W, so that a 1x1 map is fine; the released code divides by H W - 1.
    The paper puts it on the residual branch of every block.

    Args:
        channels: C of the feature map.
        regularization: lambda, above 0.
        identity: blend the map M in by a learned scalar that starts at 0, F * (1 + w * (M - 1)): at construction the
            output is the (finite) input bit for bit, and w = 1 is SimAM. This scalar is then the only parameter.
        device: device of the scalar.
        dtype: floating-point type of the scalar.

    Raises:
        ValueError: for channels below 1, a regularization that is not above 0, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    usual_sites: ClassVar[str] = "every block"
    is_pointwise: ClassVar[bool] = True
    keeps_nan: ClassVar[bool] = True
    starts_as_identity: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        regularization: float = 1e-4,
        identity: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts("SimAM", channels=channels)
        if not regularization > 0:
            raise ValueError(f"SimAM: regularization must be above 0, got {regularization!r}")
        self.channels, self.regularization = channels, regularization
        self.scale = nn.Parameter(torch.zeros(1, device=device, dtype=dtype)) if identity else None

    def forward(self, features: Tensor) -> Tensor:
        """Refine features (N, C, H, W) into the same shape, type and layout."""
        return reweight(features, self._weights(features), self.scale)

    def _weights(self, features: Tensor) -> Tensor:
        check_features(features, self.channels, "SimAM")
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        squared = (wide - wide.mean((2, 3), keepdim=True)).square()
        variance = squared.mean((2, 3), keepdim=True)
        return (squared / (4 * (variance + self.regularization)) + 0.5).sigmoid().to(features.dtype)

    def maps(self, features: Tensor) -> AttentionMaps:
        """The map sigmoid(1 / E) (N, C, H, W) and the gain; the identity's scalar only affects the gain."""
        return AttentionMaps(gain(features, self(features)), combined=self._weights(features))

    def extra_repr(self) -> str:
        """The options that `print(model)` shows."""
        identity = ", identity=True" if self.scale is not None else ""
        return f"{self.channels}, regularization={self.regularization}{identity}"
