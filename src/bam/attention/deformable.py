"""Deformable convolution (Dai et al., https://arxiv.org/abs/1703.06211; modulated: Zhu et al., arXiv 1811.11168)."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bam.attention.contract import (
    AttentionMaps,
    AttentionModule,
    check_counts,
    check_features,
    check_step,
    gain,
    identity_scale,
)

torch.fx.wrap("check_features")  # branches on the shape of its input, so torch.fx must not trace into it
torch.fx.wrap("deformable_convolution")


class Geometry(NamedTuple):
    """The geometry of a 3x3 convolution, for height and width."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)


class Deformable(AttentionModule):
    """y(p) = sum over k of w(k) x(p + p(k) + dp(k)) dm(k), a 3x3 convolution with learned offsets.

    This is equation 2 of arXiv 1703.06211 (dm = 1), or with `modulated` equation 1 of arXiv 1811.11168. A 3x3
    convolution of the features, initialised to zero, predicts the offsets dp and, through a sigmoid, the modulation dm.

    - Before a 3x3 `nn.Conv2d` it replaces that layer, as in the papers. It uses the layer's weights, which keep their
      keys. At the start the network's output is unchanged up to rounding, also with `modulated`: dm is twice the
      sigmoid and starts at 1, where the paper starts at 0.5.
    - Anywhere else it is a residual module, which is not in the papers: F' = F + y(F) with its own depthwise weights.

    Needs torchvision. Its operator does not take bfloat16 on CPUs (this module computes in float32 at least), supports
    neither `torch.func` transforms nor second derivatives, and has no deterministic backward pass on GPUs.

    Args:
        channels: C of the input features.
        modulated: also predict dm.
        identity: F' = F + s * y(F) with a learned scalar s that starts at 0: at construction the output is the (finite)
            input bit for bit. Not possible where it replaces a convolution.
        step: offset in pixels for a prediction of 1. The papers' step is 1: take it for fine-tuning at a small learning
            rate, for SGD moves offsets step^2 times as far. From scratch at a rate of 0.1, 1 sends them far away
            (54 % error instead of 8 %, docs/reproducing.md).
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Submodules: `offset`; `convolution`, None where it replaces one.

    Raises:
        ValueError: for channels below 1, a step that is not above 0, `identity` where it replaces a convolution, an
            input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
        ImportError: from the forward pass, without torchvision.
    """

    usual_sites: ClassVar[str] = "3x3 convolutions of the last stage"
    starts_as_identity: ClassVar[bool] = True
    shown_options: ClassVar[tuple[str, ...]] = ("modulated", "step")

    def __init__(
        self,
        channels: int,
        modulated: bool = False,
        identity: bool = False,
        step: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts("Deformable", channels=channels)
        self.channels, self.modulated, self.geometry = channels, modulated, Geometry()
        self.step = check_step("Deformable", step)
        self.offset = nn.Conv2d(channels, 27 if modulated else 18, 3, padding=1, device=device, dtype=dtype)
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)
        self.convolution: nn.Conv2d | None = nn.Conv2d(
            channels, channels, 3, padding=1, groups=channels, bias=False, device=device, dtype=dtype
        )
        self.scale = identity_scale(identity, device, dtype)

    def fit(self, carrier: nn.Module, *, before: bool) -> None:
        """Replace `carrier` if it is a 3x3 convolution and the site is before it."""
        if not before or not is_plain_3x3(carrier):
            return
        if self.scale is not None:
            raise ValueError(
                "deformable: where it replaces a convolution, it matches that layer up to rounding, not bit for bit: "
                "leave identity out"
            )
        assert isinstance(carrier, nn.Conv2d)
        assert not isinstance(carrier.padding, str)
        pairs = (carrier.stride, carrier.padding, carrier.dilation)
        self.geometry = Geometry(*((pair[0], pair[1]) for pair in pairs))
        self.offset.stride, self.offset.padding, self.offset.dilation = self.geometry
        self.convolution = None

    @property
    def takes_place(self) -> bool:
        """Whether it replaces a convolution, whose weight and bias are then arguments of the forward pass."""
        return self.convolution is None

    def forward(self, features: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Refine features (N, C, H, W), or compute the convolution with this weight and bias, deformed."""
        check_features(features, self.channels, "Deformable")
        offset, modulation = self._predict(features)
        if self.convolution is None:
            if weight is None:
                raise ValueError("Deformable replaces a convolution here and needs its weight: call that layer instead")
            return deformable_convolution(features, offset, modulation, (weight, bias), self.geometry)
        parameters = (self.convolution.weight, None)
        added = deformable_convolution(features, offset, modulation, parameters, self.geometry)
        return features + (added if self.scale is None else self.scale.to(features.dtype) * added)

    def uncounted_macs(self, output: Tensor, *, weight: Tensor | None = None) -> int:
        """The convolution, plus 4 for each value its taps interpolate."""
        weight = self.convolution.weight if self.convolution is not None else weight
        assert weight is not None
        return (weight.numel() + 4 * 9 * self.channels) * output[:, 0].numel()

    def _predict(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        predicted = self.offset(features)
        return self.step * predicted[:, :18], 2 * predicted[:, 18:].sigmoid() if self.modulated else None

    def maps(self, features: Tensor) -> AttentionMaps:
        """The average of the nine offsets at each place, and the gain (0 where it replaces a convolution)."""
        offset = self._predict(features)[0]
        displacement = offset.unflatten(1, (9, 2)).mean(1)
        refined = features if self.takes_place else self(features)
        return AttentionMaps(gain(features, refined), displacement=displacement)


def is_plain_3x3(layer: nn.Module) -> bool:
    """Whether `layer` is torch's own 3x3 convolution, zero-padded by a number of pixels."""
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == (3, 3)
        and (layer.padding_mode == "zeros" and not isinstance(layer.padding, str))
    )


def deformable_convolution(
    features: Tensor,
    offset: Tensor,
    modulation: Tensor | None,
    parameters: tuple[Tensor, Tensor | None],
    geometry: Geometry,
) -> Tensor:
    """Convolve features (N, C, H, W), each tap k displaced by offset (N, 2 * 9, H', W'), y before x, in pixels.

    Args:
        features: the input; the result has its type.
        offset: in pixels. The computation is in float32 at least: beyond 256, bfloat16 only has steps of two.
        modulation: factors (N, 9, H', W') for the values the taps read; None for ones.
        parameters: weight (out, C / groups, 3, 3) and bias (out,) or None.
        geometry: stride, padding and dilation.

    Raises:
        ImportError: without torchvision.
    """
    try:
        from torchvision.ops import deform_conv2d
    except ImportError:
        raise ImportError("deformable convolution needs torchvision's operator: pip install torchvision") from None
    wide = torch.promote_types(features.dtype, torch.float32)
    x, offset, weight = (tensor.to(wide) for tensor in (features, offset, parameters[0]))
    bias = None if parameters[1] is None else parameters[1].to(wide)
    mask = None if modulation is None else modulation.to(wide)
    return deform_conv2d(x, offset, weight, bias, *geometry, mask).to(features.dtype)
