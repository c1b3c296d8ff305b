"""Dynamic filters (De Brabandere et al., NIPS 2016, https://arxiv.org/abs/1605.09673)."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bam.attention.contract import AttentionMaps, AttentionModule, check_counts, check_features, gain, identity_scale

torch.fx.wrap("check_features")  # branches on the shape of its input, so torch.fx must not trace into it
torch.fx.wrap("apply_filters")


class DynamicFilter(AttentionModule):
    """F'(i, j) = sum over u, v of theta(u, v) F(i + u, j + v), with 3x3 filters theta that are generated from F.

    - filtering="local" (section 3.3, equation 2): a filter for each place of each image, by a 1x1, a 3x3 and a 1x1
      convolution, one for all channels.
    - filtering="convolution" (section 3.2, equation 1): a filter for each channel of each image, by a hidden layer over
      the channels' averages. It is depthwise; the paper's is not, which would need C times as many outputs.

    With `softmax` the values of a filter are positive and sum to 1 (section 4.1), and the module only moves and blurs.
    The paper generates filters from one input for another; inserted in a network, both are F. It has no usual site.

    Args:
        channels: C of the feature map.
        filtering: "local" or "convolution".
        reduction: the filter generator works at max(1, C // reduction) channels.
        softmax: normalise each filter.
        identity: F + s * (F' - F) with a learned scalar s that starts at 0: at construction the output is the (finite)
            input bit for bit.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Sub-module: `generator`.

    Raises:
        ValueError: for channels or reduction below 1, another filtering, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    starts_as_identity: ClassVar[bool] = True
    shown_options: ClassVar[tuple[str, ...]] = ("filtering", "softmax")

    def __init__(
        self,
        channels: int,
        filtering: Literal["local", "convolution"] = "local",
        reduction: int = 4,
        softmax: bool = True,
        identity: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts("DynamicFilter", channels=channels, reduction=reduction)
        if filtering not in ("local", "convolution"):
            raise ValueError(f"DynamicFilter: filtering must be local or convolution, got {filtering!r}")
        self.channels, self.filtering, self.softmax = channels, filtering, softmax
        hidden, is_local = max(1, channels // reduction), filtering == "local"
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.generator = nn.Sequential(nn.Conv2d(channels, hidden, 1, **factory), nn.ReLU())
        if is_local:
            self.generator.extend([nn.Conv2d(hidden, hidden, 3, padding=1, **factory), nn.ReLU()])
        self.generator.append(nn.Conv2d(hidden, 9 if is_local else 9 * channels, 1, **factory))
        self.scale = identity_scale(identity, device, dtype)

    def filters(self, features: Tensor) -> Tensor:
        """Theta: (N, 1, 9, H, W) if local, else (N, C, 9, 1, 1)."""
        check_features(features, self.channels, "DynamicFilter")
        is_local = self.filtering == "local"
        logits = self.generator(features if is_local else features.mean((2, 3), keepdim=True))
        theta = logits.unflatten(1, (1 if is_local else self.channels, 9))
        return theta.softmax(2) if self.softmax else theta

    def forward(self, features: Tensor) -> Tensor:
        """Filter features (N, C, H, W) into the same shape, type and layout; places outside of the map are 0."""
        filtered = apply_filters(features, self.filters(features).to(features.dtype))
        return filtered if self.scale is None else features + self.scale.to(features.dtype) * (filtered - features)

    def uncounted_macs(self, output: Tensor, *, weight: Tensor | None = None) -> int:
        """9 for each value that the filters give."""
        return 9 * output.numel()

    def maps(self, features: Tensor) -> AttentionMaps:
        """How far local filters move what they read on average (if normalised by the softmax), and the gain."""
        strength = gain(features, self(features))
        if not (self.softmax and self.filtering == "local"):
            return AttentionMaps(strength)
        theta = self.filters(features)[:, 0].float()
        steps = torch.tensor([(u, v) for u in (-1, 0, 1) for v in (-1, 0, 1)]).to(theta)
        return AttentionMaps(strength, displacement=torch.einsum("nkhw,kd->ndhw", theta, steps))


def apply_filters(features: Tensor, theta: Tensor) -> Tensor:
    """Features (N, C, H, W), 0 outside, filtered by theta (N, 1 or C, 9, 1 or H, 1 or W), row by row of 3 x 3."""
    height, width = features.shape[2:]
    padded = F.pad(features, (1, 1, 1, 1))
    filtered = torch.zeros_like(features)
    for k, weight in enumerate(theta.unbind(2)):
        filtered = filtered + padded[:, :, k // 3 : k // 3 + height, k % 3 : k % 3 + width] * weight
    return filtered
