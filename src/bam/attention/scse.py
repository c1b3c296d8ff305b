"""scSE, concurrent spatial and channel squeeze and excitation (Roy et al., MICCAI 2018, https://arxiv.org/abs/1803.02579)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bam.attention.contract import Branch, identity_scale
from bam.attention.reweighting import Reweighting, Weights

_SHUT = -1e4  #: a logit whose sigmoid is 0 in every type


class ChannelExcitation(nn.Module):
    """The logits W1 ReLU(W2 AvgPool(F)) of cSE."""

    def __init__(self, channels: int, hidden: int, **factory: Any) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden, bias=False, **factory)  # W2
        self.expand = nn.Linear(hidden, channels, bias=False, **factory)  # W1

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> channel logits (N, C, 1, 1)."""
        return self.expand(self.reduce(features.mean((2, 3))).relu())[:, :, None, None]


class SCSE(Reweighting):
    """F' = F * sigmoid(W1 ReLU(W2 AvgPool(F))) + F * sigmoid(Wsq F), (N, C, H, W) in and out.

    The first term is cSE, the second, with a 1x1 convolution Wsq to one channel, is sSE; the paper's scSE adds them
    (section 2). It puts the module at the end of each encoder and decoder block of a segmentation network. The usual
    sites are the bottlenecks, where the encoder blocks end; name sites in the decoder by hand. The layers have no
    biases, as in the paper's parameter counts.

    Args:
        channels: C of the feature map.
        reduction: r; the hidden layer of cSE has max(1, C // r) channels.
        identity: blend in the map, the sum of both sigmoids, by a learned scalar that starts at 0, see `Reweighting`.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Submodules: `channel.{reduce,expand}` (W2, W1), `spatial` (Wsq).

    Raises:
        ValueError: for channels or reduction below 1, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    usual_sites: ClassVar[str] = "bottlenecks"
    shown_options: ClassVar[tuple[str, ...]] = ("reduction",)

    def __init__(
        self,
        channels: int,
        reduction: int = 2,
        identity: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, reduction=reduction)
        self.channel = ChannelExcitation(channels, max(1, channels // reduction), device=device, dtype=dtype)
        self.spatial = nn.Conv2d(channels, 1, 1, bias=False, device=device, dtype=dtype)
        self.scale = identity_scale(identity, device, dtype)

    def weights(self, features: Tensor) -> Weights:
        """The sum of both sigmoids (0 to 2), and the logits of cSE and sSE."""
        channel, spatial = (branch(features).to(features.dtype) for branch in (self.channel, self.spatial))
        return Weights(channel.sigmoid() + spatial.sigmoid(), channel, spatial)

    def logit_branches(self) -> dict[str, Branch]:
        """cSE and sSE; without one, the output is the other's."""
        return {"channel": Branch(self.channel, _SHUT), "spatial": Branch(self.spatial, _SHUT)}
