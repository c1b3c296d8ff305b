"""The spatial transformer (Jaderberg et al., NIPS 2015, https://arxiv.org/abs/1506.02025)."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
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
torch.fx.wrap("sample")

_TRANSFORMS = {"affine": 6, "scale": 3}


class SpatialTransformer(AttentionModule):
    """F'(p) = F(theta p), bilinear (equation 5), where a localisation network predicts theta from F.

    theta is a 2 x 3 matrix (equation 1) or, with transform="scale", translation and one scale (equation 2); coordinates
    run from -1 to 1, and places outside F are 0. The network predicts the difference from the identity transform and
    starts at none, so a new module returns its input up to rounding. The paper has a different localisation network for
    each experiment; here it is a 3x3 convolution, the average over a 4 x 4 grid and a hidden layer. The paper puts the
    module on the image: `bam.attach(model, "spatial_transformer", sites="input")`. It works on deeper maps too.

    Grid sampling has no deterministic backward pass on GPUs.

    Args:
        channels: C of the features or the image.
        transform: "affine" or "scale".
        hidden: units of the hidden layer, and channels of the convolution.
        identity: F' = F + s * (F(theta p) - F) with a learned scalar s that starts at 0: at construction the output is
            the (finite) input bit for bit.
        step: difference from the identity transform for a prediction of 1. The paper's step is 1: take it for
            fine-tuning at a small learning rate, for SGD moves the transform step^2 times as far. From scratch at a
            rate of 0.1, 1 moves the image out of sight (docs/reproducing.md).
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Submodules: `convolution`, `hidden`, `theta`.

    Raises:
        ValueError: for channels or hidden below 1, a step that is not above 0, another transform, or an input that is
            not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    usual_sites: ClassVar[str] = "input"
    starts_as_identity: ClassVar[bool] = True
    shown_options: ClassVar[tuple[str, ...]] = ("transform", "step")

    def __init__(
        self,
        channels: int,
        transform: Literal["affine", "scale"] = "affine",
        hidden: int = 32,
        identity: bool = False,
        step: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts("SpatialTransformer", channels=channels, hidden=hidden)
        if transform not in _TRANSFORMS:
            raise ValueError(f"SpatialTransformer: transform must be affine or scale, got {transform!r}")
        self.channels, self.transform = channels, transform
        self.step = check_step("SpatialTransformer", step)
        self.convolution = nn.Conv2d(channels, hidden, 3, padding=1, device=device, dtype=dtype)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.hidden = nn.Linear(16 * hidden, hidden, device=device, dtype=dtype)
        self.theta = nn.Linear(hidden, _TRANSFORMS[transform], device=device, dtype=dtype)
        if not identity:  # with identity, equal maps would give the scalar no gradient
            nn.init.zeros_(self.theta.weight)
        nn.init.zeros_(self.theta.bias)
        self.scale = identity_scale(identity, device, dtype)

    def matrix(self, features: Tensor) -> Tensor:
        """Theta (N, 2, 3) for features (N, C, H, W), x before y."""
        check_features(features, self.channels, "SpatialTransformer")
        pooled = self.pool(self.convolution(features).relu()).flatten(1)
        change = self.step * self.theta(self.hidden(pooled).relu())
        if self.transform == "affine":
            a, b, x, c, d, y = change.unbind(1)
        else:
            a, x, y = change.unbind(1)
            b, c, d = 0 * a, 0 * a, a
        return torch.stack([1 + a, b, x, c, 1 + d, y], 1).unflatten(1, (2, 3))

    def forward(self, features: Tensor) -> Tensor:
        """Transform features (N, C, H, W) into the same shape, type and layout."""
        sampled = sample(features, self.matrix(features))
        return sampled if self.scale is None else features + self.scale.to(features.dtype) * (sampled - features)

    def uncounted_macs(self, output: Tensor, *, weight: Tensor | None = None) -> int:
        """4 for each value interpolated between four places."""
        return 4 * output.numel()

    def maps(self, features: Tensor) -> AttentionMaps:
        """The displacement from each place to where it reads, and the gain."""
        theta = self.matrix(features).float()
        half = theta.new_tensor([features.shape[3] / 2, features.shape[2] / 2])
        displacement = (_grid(theta, features) - _grid(torch.eye(2, 3).to(theta)[None], features)) * half
        return AttentionMaps(gain(features, self(features)), displacement=displacement.flip(-1).permute(0, 3, 1, 2))


def sample(features: Tensor, theta: Tensor) -> Tensor:
    """Features (N, C, H, W) read bilinearly at theta p, with theta (N, 2, 3); places outside are 0.

    The result has the type and layout of the features; the computation is in float32 at least.
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    sampled = F.grid_sample(features.to(wide), _grid(theta.to(wide), features), align_corners=False)
    return torch.empty_like(features).copy_(sampled)


def _grid(theta: Tensor, features: Tensor) -> Tensor:
    """Where each place reads, (N, H, W, 2): x and y from -1 to 1."""
    y, x = ((2 * torch.arange(side).to(theta) + 1) / side - 1 for side in features.shape[2:])
    x, y = x[None, :, None], y[:, None, None]  # `F.affine_grid` has no batching rule
    a, b, c = (column[:, None, None] for column in theta.unbind(2))
    return a * x + b * y + c
