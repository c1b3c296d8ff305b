"""scSE, concurrent spatial and channel squeeze and excitation (Roy et al., MICCAI 2018, https://arxiv.org/abs/1803.02579)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bam.attention.contract import (
    AttentionMaps,
    AttentionModule,
    Branch,
    check_counts,
    check_features,
    gain,
    reweight,
)

torch.fx.wrap("check_features")  # branches on the shape of its input, so torch.fx must not trace into it

_SHUT = -1e4  #: a logit whose sigmoid is 0 in any type


class ChannelExcitation(nn.Module):
    """The logits W1 ReLU(W2 AvgPool(F)) of cSE."""

    def __init__(self, channels: int, hidden: int, **factory: Any) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden, bias=False, **factory)  # W2
        self.expand = nn.Linear(hidden, channels, bias=False, **factory)  # W1

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> channel logits (N, C, 1, 1)."""
        return self.expand(self.reduce(features.mean((2, 3))).relu())[:, :, None, None]


class SCSE(AttentionModule):
    """F' = F * sigmoid(W1 ReLU(W2 AvgPool(F))) + F * sigmoid(Wsq F), (N, C, H, W) in and out.

    The first term is cSE, the second, with a 1x1 convolution Wsq to one channel, is sSE; the paper's scSE adds them
    (section 2). It puts the block at the end of each encoder and decoder block of a segmentation network. The ends of
    the encoder blocks are its bottlenecks, which are therefore the usual sites; name those in the decoder by hand. As
    the paper counts parameters, the layers have no biases.

    Args:
        channels: C of the feature map.
        reduction: r; the hidden layer of cSE has max(1, C // r) channels.
        identity: blend the map M, the sum of both sigmoids, in by a learned scalar that starts at 0,
            F * (1 + w * (M - 1)): at construction the output is the (finite) input bit for bit, and w = 1 is scSE.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Sub-modules: `channel.{reduce,expand}` (W2, W1), `spatial` (Wsq).

    Raises:
        ValueError: for channels or reduction below 1, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    is_pointwise: ClassVar[bool] = True
    keeps_nan: ClassVar[bool] = True
    starts_as_identity: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        reduction: int = 2,
        identity: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts("SCSE", channels=channels, reduction=reduction)
        self.channels, self.reduction = channels, reduction
        self.channel = ChannelExcitation(channels, max(1, channels // reduction), device=device, dtype=dtype)
        self.spatial = nn.Conv2d(channels, 1, 1, bias=False, device=device, dtype=dtype)
        self.scale = nn.Parameter(torch.zeros(1, device=device, dtype=dtype)) if identity else None

    def forward(self, features: Tensor) -> Tensor:
        """Refine features (N, C, H, W) into the same shape, type and layout."""
        return reweight(features, self._maps(features)[2], self.scale)

    def _maps(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The channel logits, the spatial logits and the sum of their sigmoids."""
        check_features(features, self.channels, "SCSE")
        channel, spatial = (branch(features).to(features.dtype) for branch in (self.channel, self.spatial))
        return channel, spatial, channel.sigmoid() + spatial.sigmoid()

    def maps(self, features: Tensor) -> AttentionMaps:
        """The logits of cSE and sSE, the sum of their sigmoids (0 to 2) and the gain."""
        return AttentionMaps(gain(features, self(features)), *self._maps(features))

    def logit_branches(self) -> dict[str, Branch]:
        """cSE and sSE; without one, the output is the other's."""
        return {"channel": Branch(self.channel, _SHUT), "spatial": Branch(self.spatial, _SHUT)}

    def extra_repr(self) -> str:
        """The options that `print(model)` shows."""
        identity = ", identity=True" if self.scale is not None else ""
        return f"{self.channels}, reduction={self.reduction}{identity}"
