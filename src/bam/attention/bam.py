"""BAM, the Bottleneck Attention Module (Park, Woo, Lee, Kweon, BMVC 2018, https://arxiv.org/abs/1807.06514)."""

import copy
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bam.attention.batchnorm import BatchNorm, normalize_averages
from bam.attention.contract import (
    AttentionMaps,
    AttentionModule,
    Branch,
    check_counts,
    check_features,
    gain,
    identity_scale,
)
from bam.attention.folding import fold
from bam.kernels import COMBINE, GateOptions, convolve, gate, pool_and_reduce, stored_for_convolve
from bam.kernels.backend import named
from bam.private import runs_as_written

# These functions branch on the shape or layout of their input, so torch.fx must not trace into them.
for _name in ("check_features", "gate", "pool_and_reduce"):
    torch.fx.wrap(_name)

_BRANCHES = ("both", "channel", "spatial")
_LAYOUTS = ("paper", "released")
_NEUTRAL = {"sum": 0.0, "product": 1.0, "max": -1e4}  #: logits with which the other branch alone determines the map


class ChannelBranch(nn.Module):
    """Mc(F) = BN(W1 ReLU(BN(W0 AvgPool(F) + b0)) + b1): "what" (equation 3).

    The closing BN comes from the paper. The inner BN and the ReLU come from the released code; both layouts keep them,
    because they reproduce the paper's parameter counts. The caller does the average pooling.
    """

    def __init__(self, channels: int, hidden: int, closing: bool, **factory: Any) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden, **factory)  # W0, b0
        self.norm = BatchNorm(hidden, **factory)
        self.expand = nn.Linear(hidden, channels, **factory)  # W1, b1
        self.closing = BatchNorm(channels, **factory) if closing else nn.Identity()

    def forward(self, averages: Tensor) -> Tensor:
        """AvgPool(F), (N, C) -> channel logits (N, C, 1, 1)."""
        hidden = normalize_averages(self.norm, self.reduce(averages)).relu()
        return normalize_averages(self.closing, self.expand(hidden))[:, :, None, None]


class SpatialBranch(nn.Module):
    """Ms(F) = BN(f3_1x1(f2_3x3(f1_3x3(f0_1x1(F))))): "where" (equation 5).

    f1 and f2 are dilated; BN and ReLU follow f0, f1 and f2 as in the released code. The closing BN comes from the
    paper. The caller computes the reduction f0(F).
    """

    def __init__(self, channels: int, hidden: int, dilation: int, closing: bool, **factory: Any) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1, **factory)  # f0
        self.norm = BatchNorm(hidden, **factory)
        self.context = nn.Sequential()  # f1, f2
        for _ in (1, 2):
            self.context.append(nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation, **factory))
            self.context.append(BatchNorm(hidden, **factory))
            self.context.append(nn.ReLU())
        self.project = nn.Conv2d(hidden, 1, 1, **factory)  # f3
        self.closing = BatchNorm(1, **factory) if closing else nn.Identity()

    def forward(self, reduced: Tensor) -> Tensor:
        """Reduced features (N, C/r, H, W) -> spatial logits (N, 1, H, W)."""
        features = self.norm(stored_for_convolve(reduced)).relu()
        if runs_as_written(self.context, nn.Sequential):
            for layer in self.context:
                features = _call(layer, features)
        else:
            features = self.context(features)
        return self.closing(_call(self.project, features))


def _call(layer: nn.Module, features: Tensor) -> Tensor:
    """`layer(features)`; `convolve` computes convolutions that nobody has changed, except in a torch.fx trace."""
    if isinstance(features, Tensor) and runs_as_written(layer, nn.Conv2d) and _is_plain(layer):
        return convolve(features, layer.weight, layer.bias, layer.dilation[0])
    return layer(features)


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether it is an ordinary 1x1 or dilated 3x3 convolution with the same padding."""
    if layer.kernel_size not in ((1, 1), (3, 3)) or layer.groups != 1 or layer.padding_mode != "zeros":
        return False
    same = tuple(dilation * (side // 2) for dilation, side in zip(layer.dilation, layer.kernel_size, strict=True))
    return layer.stride == (1, 1) and layer.padding == same and layer.dilation[0] == layer.dilation[1]


class BAM(AttentionModule):
    """F' = F + F * M(F), M(F) = sigmoid(Mc(F) + Ms(F)), (N, C, H, W) in and out (equations 1 and 2).

    Any H, W and C work; the type and memory layout (channels_last) of the input are kept. For a training batch with one
    value per channel, the batch statistic is undefined, and `bam.attention.batchnorm.BatchNorm` uses the running one.

    Args:
        channels: C of the feature map.
        reduction: r; both branches work at max(1, C // r) channels.
        dilation: d of the two 3x3 convolutions of the spatial branch.
        combine: "sum" (the paper), "product" (the released code and its weights) or "max".
        branch: "both", or only "channel" or "spatial": M(F) = sigmoid(Mc(F)) or sigmoid(Ms(F)) (the paper's ablation).
        layout: "paper" closes each branch with a BatchNorm; "released" is the authors' code, which does not.
        recompute: recompute the map M(F) in the backward pass instead of keeping it, which saves memory of the size of
            F and costs a tenth of the module's time; under torch.compile the compiler decides.
        kernel: implementation of the gate: "torch"; "inductor", which compiles the gate of an eager network at its
            first call (some seconds), keeps no map, and is faster on a CPU; "triton" (GPU only: raises elsewhere);
            or "auto", which is torch, except that `bam train` and `bam compare` choose by measurement. Exported
            programs use torch. None reads BAM_KERNEL from the environment at construction, or else uses "auto".
        identity: scale the map by a learned scalar that starts at 0, F' = F + s * F * M(F): at construction the output
            is the (finite) input bit for bit, and s gets a gradient from the first step on.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Submodules: `channel.{reduce,norm,expand,closing}`, `spatial.{reduce,norm,context,project,closing}`; `channel` or
    `spatial` is None if `branch` leaves it out.

    Raises:
        ValueError: for an unknown option, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
        RuntimeError: from the forward pass, if the kernel is "triton" or "inductor" and cannot run.
    """

    is_pointwise: ClassVar[bool] = True
    keeps_nan: ClassVar[bool] = True
    starts_as_identity: ClassVar[bool] = True
    runtime_options: ClassVar[frozenset[str]] = AttentionModule.runtime_options | {"kernel", "recompute"}

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        dilation: int = 4,
        combine: Literal["sum", "product", "max"] = "sum",
        branch: Literal["both", "channel", "spatial"] = "both",
        layout: Literal["paper", "released"] = "paper",
        identity: bool = False,
        recompute: bool = False,
        kernel: Literal["auto", "torch", "inductor", "triton"] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts("BAM", channels=channels, reduction=reduction, dilation=dilation)
        choices = {"combine": (combine, COMBINE), "branch": (branch, _BRANCHES), "layout": (layout, _LAYOUTS)}
        for name, (choice, known) in choices.items():
            if choice not in known:
                raise ValueError(f"BAM: {name} must be one of {', '.join(known)}, got {choice!r}")
        self.channels, self.reduction, self.dilation = channels, reduction, dilation
        self.combine, self.branch, self.layout, self.recompute = combine, branch, layout, recompute
        self.kernel = named(kernel)
        hidden, closing = max(1, channels // reduction), layout == "paper"
        factory = {"device": device, "dtype": dtype}
        self.channel = ChannelBranch(channels, hidden, closing, **factory) if branch != "spatial" else None
        self.spatial = SpatialBranch(channels, hidden, dilation, closing, **factory) if branch != "channel" else None
        self.scale = identity_scale(identity, device, dtype)

    def branches(self, features: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """(Mc(F), Ms(F)): channel logits (N, C, 1, 1) and spatial logits (N, 1, H, W); None for a missing branch."""
        return self._branches(features)[1:]

    def forward(self, features: Tensor) -> Tensor:
        """Refine features (N, C, H, W) into the same shape, type and layout."""
        options = GateOptions(self.combine, self.recompute, self.kernel)
        return gate(*self._branches(features), scale=self.scale, options=options)

    def _branches(self, features: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(F, Mc(F), Ms(F)); the caller must continue with this F, see `pool_and_reduce`."""
        check_features(features, self.channels, "BAM")
        if self.spatial is None:
            assert self.channel is not None
            return features, self.channel(features.mean((2, 3))), None
        if self.channel is None:
            return features, None, self.spatial(self.spatial.reduce(features))
        reduce = self.spatial.reduce
        ordinary = runs_as_written(reduce, nn.Conv2d) and _is_plain(reduce) and reduce.kernel_size == (1, 1)
        if not ordinary or reduce.bias is None:  # somebody has changed it: call it
            return features, self.channel(features.mean((2, 3))), self.spatial(reduce(features))
        features, averages, reduced = pool_and_reduce(features, reduce.weight, reduce.bias)
        return features, self.channel(averages), self.spatial(reduced)

    def maps(self, features: Tensor) -> AttentionMaps:
        """Mc(F), Ms(F), M(F) = sigmoid(Mc(F) + Ms(F)) and the gain; the identity scalar affects only the gain."""
        channel, spatial = self.branches(features)
        logits = [branch.to(features.dtype) for branch in (channel, spatial) if branch is not None]
        combined = (logits[0] if len(logits) == 1 else COMBINE[self.combine](*logits)).sigmoid()
        return AttentionMaps(gain(features, self(features)), channel, spatial, combined)

    def logit_branches(self) -> dict[str, Branch]:
        """The channel and the spatial branch; logits of 0 (1 for "product", -1e4 for "max") leave the other alone."""
        if self.channel is None or self.spatial is None:
            return {}
        neutral = _NEUTRAL[self.combine]
        return {"channel": Branch(self.channel, neutral), "spatial": Branch(self.spatial, neutral)}

    def is_constant(self) -> bool:
        """Whether the logits are the same for every image, because the last weights of the branches are zero."""
        last = [] if self.channel is None else [self.channel.expand.weight]
        last += [] if self.spatial is None else [self.spatial.project.weight]
        return not any(weight.any() for weight in last)

    def fused(self) -> "BAM":
        """A copy in eval mode with BatchNorms folded into the preceding layers; modified branches stay as they are."""
        fused = copy.deepcopy(self).eval()
        if fused.channel is not None:
            fold([(fused.channel, "reduce", "norm"), (fused.channel, "expand", "closing")])
        if fused.spatial is not None:
            context = fused.spatial.context
            pairs = [(fused.spatial, "reduce", "norm"), (context, "0", "1"), (context, "3", "4")]
            fold([*pairs, (fused.spatial, "project", "closing")])
        return fused

    @property
    def is_fused(self) -> bool:
        """Whether the BatchNorms of a branch have been folded."""
        return any(
            isinstance(branch.norm, nn.Identity) for branch in (self.channel, self.spatial) if branch is not None
        )

    def extra_repr(self) -> str:
        """The options that `print(model)` shows."""
        identity = ", identity=True" if self.scale is not None else ""
        identity += ", recompute=True" if self.recompute else ""
        identity += f", kernel={self.kernel!r}" if self.kernel != "auto" else ""
        return (
            f"{self.channels}, reduction={self.reduction}, dilation={self.dilation}, "
            f"combine={self.combine!r}, branch={self.branch!r}, layout={self.layout!r}{identity}"
        )


class BAMChannel(BAM):
    """BAM's channel branch alone: F' = F + F * sigmoid(Mc(F)), short for `BAM(channels, branch="channel")`."""

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__(channels, branch="channel", **options)


class BAMSpatial(BAM):
    """BAM's spatial branch alone: F' = F + F * sigmoid(Ms(F)), short for `BAM(channels, branch="spatial")`."""

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__(channels, branch="spatial", **options)
