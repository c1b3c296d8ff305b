"""CBAM, the Convolutional Block Attention Module (Woo, Park, Lee, Kweon, ECCV 2018, https://arxiv.org/abs/1807.06521)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bam.attention.contract import Branch, identity_scale
from bam.attention.reweighting import Reweighting, Weights
from bam.kernels import maxima

_OPEN = 1e4  #: a logit whose sigmoid is 1 in every type


class ChannelAttention(nn.Module):
    """The logits of Mc(F) = sigmoid(MLP(AvgPool(F)) + MLP(MaxPool(F))) (equation 2)."""

    def __init__(self, channels: int, hidden: int, **factory: Any) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden, **factory)  # W0
        self.expand = nn.Linear(hidden, channels, **factory)  # W1

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> channel logits (N, C, 1, 1)."""
        pooled = torch.stack([features.mean((2, 3)), maxima.over_places(features)])
        return self.expand(self.reduce(pooled).relu()).sum(0)[:, :, None, None]


class SpatialAttention(nn.Module):
    """The logits of Ms(F) = sigmoid(f7x7([AvgPool(F); MaxPool(F)])), pooled over the channels (equation 3)."""

    def __init__(self, **factory: Any) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2, 1, 7, padding=3, **factory)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> spatial logits (N, 1, H, W)."""
        return self.mix(torch.cat([features.mean(1, keepdim=True), maxima.over_channels(features)], dim=1))


class CBAM(Reweighting):
    """F' = Mc(F) * F, F'' = Ms(F') * F', (N, C, H, W) in and out (equation 1; Mc and Ms: equations 2 and 3).

    The paper puts it on the residual branch of every block, before the addition. The layers have biases, which the
    paper's parameter counts include. The authors' released code adds a BatchNorm after the 7x7 convolution; the
    paper's equations and this module do not.

    Args:
        channels: C of the feature map.
        reduction: r; the hidden layer has max(1, C // r) channels.
        identity: blend in the map M = Mc(F) * Ms(F') by a learned scalar that starts at 0, see `Reweighting`.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Submodules: `channel.{reduce,expand}` (W0, W1), `spatial.mix` (f7x7).

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
        self.channel = ChannelAttention(channels, max(1, channels // reduction), device=device, dtype=dtype)
        self.spatial = SpatialAttention(device=device, dtype=dtype)
        self.scale = identity_scale(identity, device, dtype)

    def weights(self, features: Tensor) -> Weights:
        """M = Mc(F) * Ms(F') and the logits of both."""
        channel = self.channel(features).to(features.dtype)
        channel_map = channel.sigmoid()
        spatial = self.spatial(features * channel_map).to(features.dtype)
        return Weights(channel_map * spatial.sigmoid(), channel, spatial)

    def logit_branches(self) -> dict[str, Branch]:
        """Channel and spatial attention. Without the channel attention, the spatial one reads F instead of F'."""
        return {"channel": Branch(self.channel, _OPEN), "spatial": Branch(self.spatial, _OPEN)}
