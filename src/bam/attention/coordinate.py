"""Coordinate attention (Hou, Zhou, Feng, CVPR 2021, https://arxiv.org/abs/2103.02907)."""

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bam.attention.batchnorm import BatchNorm
from bam.attention.contract import identity_scale
from bam.attention.folding import fold
from bam.attention.reweighting import Reweighting, Weights


class Coordinate(Reweighting):
    """F'[c, i, j] = F[c, i, j] * gh[c, i] * gw[c, j], (N, C, H, W) in and out (equation 9).

    gh = sigmoid(Fh(fh)) and gw = sigmoid(Fw(fw)) (equations 7 and 8), where [fh, fw] =
    hardswish(BN(F1([rows, columns]))) (equation 6) and rows and columns are the means over each row and each column
    (equations 4 and 5). The BatchNorm, the hardswish and at least 8 hidden channels come from the released code. The
    paper puts it into every block, in MobileNetV2 after the depthwise convolution; "every block" here is the end of the
    residual branch.

    Args:
        channels: C of the feature map.
        reduction: r; the hidden layer has max(8, C // r) channels.
        identity: blend in the map gh * gw by a learned scalar that starts at 0, see `Reweighting`.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Submodules: `reduce` (F1), `norm`, `height` (Fh), `width` (Fw).

    Raises:
        ValueError: for channels or reduction below 1, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    shown_options: ClassVar[tuple[str, ...]] = ("reduction",)

    def __init__(
        self,
        channels: int,
        reduction: int = 32,
        identity: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, reduction=reduction)
        hidden = max(8, channels // reduction)
        self.reduce = nn.Conv2d(channels, hidden, 1, device=device, dtype=dtype)
        self.norm = BatchNorm(hidden, device=device, dtype=dtype)
        self.height = nn.Conv2d(hidden, channels, 1, device=device, dtype=dtype)
        self.width = nn.Conv2d(hidden, channels, 1, device=device, dtype=dtype)
        self.scale = identity_scale(identity, device, dtype)

    def weights(self, features: Tensor) -> Weights:
        """The map gh * gw, (N, C, H, W)."""
        height, width = features.shape[2], features.shape[3]
        rows, columns = features.mean(3, keepdim=True), features.mean(2, keepdim=True).transpose(2, 3)
        hidden = F.hardswish(self.norm(self.reduce(torch.cat([rows, columns], dim=2))))
        rows, columns = torch.split(hidden, [height, width], dim=2)
        along_height = self.height(rows).to(features.dtype).sigmoid()
        return Weights(along_height * self.width(columns.transpose(2, 3)).to(features.dtype).sigmoid())

    def is_constant(self) -> bool:
        """Whether the map is the same for every image, because the last weights are zero."""
        return not (self.height.weight.any() or self.width.weight.any())

    def fused(self) -> "Coordinate":
        """A copy in eval mode with the BatchNorm folded into the layer before it."""
        fused = copy.deepcopy(self).eval()
        fold([(fused, "reduce", "norm")])
        return fused

    @property
    def is_fused(self) -> bool:
        """Whether the BatchNorm has been folded."""
        return isinstance(self.norm, nn.Identity)
