"""SE, Squeeze-and-Excitation (Hu, Shen, Sun, CVPR 2018, https://arxiv.org/abs/1709.01507)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bam.attention.contract import AttentionMaps, AttentionModule, check_counts, check_features, gain, reweight

torch.fx.wrap("check_features")  # branches on the shape of its input, so torch.fx must not trace into it


class SE(AttentionModule):
    """F' = F * s, s = sigmoid(W2 ReLU(W1 AvgPool(F) + b1) + b2), (N, C, H, W) in and out (equations 2 to 4).

    The paper puts it on the residual branch of every block, before the addition. At a bottleneck it scales the sum.

    Args:
        channels: C of the feature map.
        reduction: r; the hidden layer has max(1, C // r) channels.
        identity: blend s in by a learned scalar that starts at 0, F' = F * (1 + w * (s - 1)): at construction the
            output is the (finite) input bit for bit, w gets a gradient from the first step on, and w = 1 is SE.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Sub-modules: `reduce` (W1, b1), `expand` (W2, b2).

    Raises:
        ValueError: for channels or reduction below 1, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    usual_sites: ClassVar[str] = "every block"
    is_pointwise: ClassVar[bool] = True
    keeps_nan: ClassVar[bool] = True
    starts_as_identity: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        identity: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts("SE", channels=channels, reduction=reduction)
        self.channels, self.reduction = channels, reduction
        hidden = max(1, channels // reduction)
        self.reduce = nn.Linear(channels, hidden, device=device, dtype=dtype)
        self.expand = nn.Linear(hidden, channels, device=device, dtype=dtype)
        self.scale = nn.Parameter(torch.zeros(1, device=device, dtype=dtype)) if identity else None

    def forward(self, features: Tensor) -> Tensor:
        """Refine features (N, C, H, W) into the same shape, type and layout."""
        return reweight(features, self._logits(features).to(features.dtype).sigmoid(), self.scale)

    def _logits(self, features: Tensor) -> Tensor:
        check_features(features, self.channels, "SE")
        return self.expand(self.reduce(features.mean((2, 3))).relu())[:, :, None, None]

    def maps(self, features: Tensor) -> AttentionMaps:
        """The logits of s, s itself and the gain; the identity's scalar only affects the gain."""
        logits = self._logits(features)
        return AttentionMaps(gain(features, self(features)), logits, combined=logits.to(features.dtype).sigmoid())

    def extra_repr(self) -> str:
        """The options that `print(model)` shows."""
        identity = ", identity=True" if self.scale is not None else ""
        return f"{self.channels}, reduction={self.reduction}{identity}"
