"""SE, Squeeze-and-Excitation (Hu, Shen, Sun, CVPR 2018, https://arxiv.org/abs/1709.01507)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bam.attention.contract import identity_scale
from bam.attention.reweighting import Reweighting, Weights


class SE(Reweighting):
    """F' = F * s, s = sigmoid(W2 ReLU(W1 AvgPool(F) + b1) + b2), (N, C, H, W) in and out (equations 2 to 4).

    The paper puts it on the residual branch of every block, before the addition. At a bottleneck it scales the sum.

    Args:
        channels: C of the feature map.
        reduction: r; the hidden layer has max(1, C // r) channels.
        identity: blend in s by a learned scalar that starts at 0, see `Reweighting`.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Submodules: `reduce` (W1, b1), `expand` (W2, b2).

    Raises:
        ValueError: for channels or reduction below 1, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    shown_options: ClassVar[tuple[str, ...]] = ("reduction",)

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        identity: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, reduction=reduction)
        hidden = max(1, channels // reduction)
        self.reduce = nn.Linear(channels, hidden, device=device, dtype=dtype)
        self.expand = nn.Linear(hidden, channels, device=device, dtype=dtype)
        self.scale = identity_scale(identity, device, dtype)

    def weights(self, features: Tensor) -> Weights:
        """The weights s and their logits."""
        logits = self.expand(self.reduce(features.mean((2, 3))).relu())[:, :, None, None]
        return Weights(logits.to(features.dtype).sigmoid(), logits)
