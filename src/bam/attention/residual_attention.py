"""Residual attention (Wang et al., CVPR 2017, https://arxiv.org/abs/1704.06904)."""

import copy
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bam.attention.batchnorm import BatchNorm
from bam.attention.contract import AttentionMaps, AttentionModule, check_counts, check_features, gain, identity_scale
from bam.attention.folding import fold

torch.fx.wrap("check_features")  # branches on the shape of its input, so torch.fx must not trace into it


def mixed(logits: Tensor) -> Tensor:
    """sigmoid(x) (equation 4)."""
    return logits.sigmoid()


def channel(logits: Tensor) -> Tensor:
    """x / ||x|| over the channels at each place (equation 5), from -1 to 1; 0 where all x are 0."""
    return F.normalize(logits, dim=1)


def spatial(logits: Tensor) -> Tensor:
    """sigmoid((x - mean) / std) over the places of each channel (equation 6); 1/2 where all x are equal."""
    centred = logits - logits.mean((2, 3), keepdim=True)
    return (centred * (centred.square().mean((2, 3), keepdim=True) + 1e-5).rsqrt()).sigmoid()


ACTIVATIONS = {"mixed": mixed, "channel": channel, "spatial": spatial}


class ResidualUnit(nn.Module):
    """The pre-activation bottleneck unit (arXiv 1603.05027): x plus 1x1, 3x3, 1x1 convolutions of x."""

    def __init__(self, channels: int, hidden: int, **factory: Any) -> None:
        super().__init__()
        self.branch = nn.Sequential()
        for before, after, kernel in ((channels, hidden, 1), (hidden, hidden, 3), (hidden, channels, 1)):
            convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False, **factory)
            self.branch.extend([BatchNorm(before, **factory), nn.ReLU(), convolution])

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x + self.branch(x)


class Scales(nn.Module):
    """Max-pooling down and bilinear interpolation up, with a unit on each side and `depth - 1` scales inside.

    A skip connection with its own unit bypasses the inner scales.
    """

    def __init__(self, channels: int, hidden: int, depth: int, **factory: Any) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.down, self.up = (ResidualUnit(channels, hidden, **factory) for _ in range(2))
        self.skip = ResidualUnit(channels, hidden, **factory) if depth > 1 else None
        self.inner = Scales(channels, hidden, depth - 1, **factory) if depth > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        y = self.down(self.pool(x))
        if self.skip is not None and self.inner is not None:
            y = self.skip(y) + self.inner(y)
        return F.interpolate(self.up(y), x.shape[2:], mode="bilinear")


class SoftMask(nn.Module):
    """The soft mask branch M(x): `depth` scales, two 1x1 convolutions, an activation (section 3.2, figure 2).

    Args:
        channels: C of the features.
        depth: number of max-poolings by 2, and of interpolations.
        reduction: the units' 3x3 convolutions have max(1, C // reduction) channels.
        activation: "mixed", "channel" or "spatial".
        **factory: device and dtype.
    """

    def __init__(
        self, channels: int, depth: int, *, reduction: int = 4, activation: str = "mixed", **factory: Any
    ) -> None:
        super().__init__()
        self.activation = activation
        self.scales = Scales(channels, max(1, channels // reduction), depth, **factory)
        self.project = nn.Sequential()
        for _ in range(2):
            convolution = nn.Conv2d(channels, channels, 1, **factory)
            self.project.extend([BatchNorm(channels, **factory), nn.ReLU(), convolution])

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> M (N, C, H, W)."""
        logits = self.project(self.scales(features))
        return ACTIVATIONS[self.activation](logits.to(torch.promote_types(logits.dtype, torch.float32)))


def mask_depth(height: int, width: int) -> int:
    """How often the mask branch halves a map, 1 to 3 times: while sides of at least 7 remain, as in the paper."""
    return min(3, max(1, (min(height, width) // 7).bit_length() - 1))


class ResidualAttention(AttentionModule):
    """F' = (1 + M(F)) F, (N, C, H, W) in and out (equation 3, with the network as its trunk T).

    M is a bottom-up top-down branch, see `SoftMask`. Its depth depends on the size of the map: `bam.attach` gives 3 for
    56 x 56, 2 for 28 x 28 and 1 for 14 x 14 (table 2). Any depth works for any H x W; only `torch.export` of the module
    alone with a dynamic size needs sides of at least 3, 5 or 9 for depth 1, 2 or 3. The paper's own networks, whose
    trunk has units beside the mask, are `imagenet/attention56` and others, see `bam models`.

    Args:
        channels: C of the feature map.
        depth: how often the mask branch halves the map.
        activation: "mixed" (a sigmoid), "channel" (normalised over the channels of each place) or "spatial"
            (normalised over the places of each channel, then a sigmoid), see equations 4 to 6.
        reduction: the 3x3 convolutions of the mask branch have max(1, C // reduction) channels.
        identity: F' = (1 + s * M(F)) F with a learned scalar s that starts at 0: at construction the output is the
            (finite) input bit for bit.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Submodule: `mask`.

    Raises:
        ValueError: for channels, depth or reduction below 1, another activation, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    is_pointwise: ClassVar[bool] = True
    keeps_nan: ClassVar[bool] = True
    starts_as_identity: ClassVar[bool] = True
    shown_options: ClassVar[tuple[str, ...]] = ("depth", "activation", "reduction")

    def __init__(
        self,
        channels: int,
        depth: int = 1,
        activation: Literal["mixed", "channel", "spatial"] = "mixed",
        reduction: int = 4,
        identity: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts("ResidualAttention", channels=channels, depth=depth, reduction=reduction)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"ResidualAttention: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        self.channels, self.depth, self.activation, self.reduction = channels, depth, activation, reduction
        self.mask = SoftMask(channels, depth, reduction=reduction, activation=activation, device=device, dtype=dtype)
        self.scale = identity_scale(identity, device, dtype)

    @classmethod
    def fitted_options(cls, height: int, width: int) -> dict[str, Any]:
        """The depth for a map of this size."""
        return {"depth": mask_depth(height, width)}

    def forward(self, features: Tensor) -> Tensor:
        """Refine features (N, C, H, W) into the same shape, type and layout."""
        mask = self._mask(features)
        return features + features * (mask if self.scale is None else self.scale.to(mask.dtype) * mask)

    def _mask(self, features: Tensor) -> Tensor:
        check_features(features, self.channels, "ResidualAttention")
        return self.mask(features).to(features.dtype)

    def maps(self, features: Tensor) -> AttentionMaps:
        """M(F) (N, C, H, W), which is added to 1 as in BAM, and the gain; the identity scalar affects only the gain."""
        return AttentionMaps(gain(features, self(features)), combined=self._mask(features))

    def fused(self) -> "ResidualAttention":
        """A copy in eval mode with each BatchNorm after a convolution folded; the first one of each part stays."""
        fused = copy.deepcopy(self).eval()
        units = [module.branch for module in fused.modules() if isinstance(module, ResidualUnit)]
        fold([(unit, layer, norm) for unit in units for layer, norm in (("2", "3"), ("5", "6"))])
        fold([(fused.mask.project, "2", "3")])
        return fused

    @property
    def is_fused(self) -> bool:
        """Whether BatchNorms have been folded."""
        return any(isinstance(module, nn.Identity) for module in self.mask.modules())

    def is_constant(self) -> bool:
        """Whether the mask is the same for every image, because the weights of its last layer are zero."""
        weight = self.mask.project[-1].weight
        assert isinstance(weight, Tensor)
        return not weight.any()
