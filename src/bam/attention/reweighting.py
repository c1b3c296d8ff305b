"""The base class of modules that multiply the features by a map."""

import abc
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bam.attention.contract import AttentionMaps, AttentionModule, check_counts, check_features, gain

torch.fx.wrap("check_features")  # branches on the shape of its input, so torch.fx must not trace into it


class Weights(NamedTuple):
    """The map M, in a shape that broadcasts to the features (N, C, H, W), and its logits."""

    combined: Tensor
    channel_logits: Tensor | None = None  #: (N, C, 1, 1)
    spatial_logits: Tensor | None = None  #: (N, 1, H, W)


class Reweighting(AttentionModule, abc.ABC):
    """F' = F * M(F), (N, C, H, W) in and out; a subclass computes M in `weights`.

    With `identity`, F' = F * (1 + w * (M - 1)), with a learned scalar w that starts at 0: at construction the output is
    the (finite) input bit for bit, w gets a gradient from the first step on, and w = 1 gives F * M(F).

    Args:
        channels: C of the feature map.
        **counts: further options that are whole numbers, at least 1; they become attributes.

    Raises:
        ValueError: for channels or counts below 1, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    usual_sites: ClassVar[str] = "every block"
    is_pointwise: ClassVar[bool] = True
    keeps_nan: ClassVar[bool] = True
    starts_as_identity: ClassVar[bool] = True
    scale: nn.Parameter | None

    def __init__(self, channels: int, **counts: Any) -> None:
        super().__init__()
        check_counts(type(self).__name__, channels=channels, **counts)
        self.channels = channels
        for name, value in counts.items():
            setattr(self, name, value)

    @abc.abstractmethod
    def weights(self, features: Tensor) -> Weights:
        """The map M of features (N, C, H, W)."""

    def forward(self, features: Tensor) -> Tensor:
        """Refine features (N, C, H, W) into the same shape, type and layout."""
        check_features(features, self.channels, type(self).__name__)
        return self._refine(features, self.weights(features).combined)

    def _refine(self, features: Tensor, weights: Tensor) -> Tensor:
        return features * (weights if self.scale is None else 1 + self.scale.to(features.dtype) * (weights - 1))

    def maps(self, features: Tensor) -> AttentionMaps:
        """The logits, the map M and the gain; the identity scalar affects only the gain."""
        check_features(features, self.channels, type(self).__name__)
        weights = self.weights(features)
        strength = gain(features, self._refine(features, weights.combined))
        return AttentionMaps(strength, weights.channel_logits, weights.spatial_logits, weights.combined)
