"""Spatial maps of attention: its strength at each place, upsampling and ranking."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bam.attention.contract import AttentionMaps

_LEVELS = 1_000_000  #: differences below a millionth of a map's range count as rounding
_NOISE = 1e-6  #: a range below this share of the largest value counts as rounding


def place_map_name(maps: AttentionMaps) -> str:
    """The name of the map that `place_map` returns."""
    return "gain" if maps.spatial_logits is None else "spatial logits"


def place_map(maps: AttentionMaps) -> Tensor:
    """The map that ranks places, float32 (N, h, w): the spatial logits, or the gain if the module has none."""
    return maps.gain.float() if maps.spatial_logits is None else maps.spatial_logits[:, 0].float()


def strength(maps: AttentionMaps) -> Tensor:
    """The strength of attention at each place, float32 (N, h, w), not negative: sigmoid(Ms(F)), or the gain.

    A negative gain counts as 0. If no place of an image has a positive gain, the strength is the factor 1 + gain.
    """
    if maps.spatial_logits is not None:
        return maps.spatial_logits[:, 0].float().sigmoid()
    gain = maps.gain.float()
    gains = (gain > 0).flatten(1).any(1)[:, None, None]
    return torch.where(gains, gain, 1 + gain).clamp(min=0)


def shares(values: Tensor) -> Tensor:
    """Non-negative maps (N, h, w) as float64 shares that add up to 1; a map of zeros becomes uniform."""
    values = values.double()
    total = values.sum((1, 2), keepdim=True)
    return torch.where(total > 0, values / total.clamp(min=1e-300), 1 / values[0].numel())


def upsampled(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) resized to the image with bilinear interpolation: (N, H, W)."""
    return F.interpolate(values[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def levels(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) resized to the image as integers (N, H, W), so that values that differ only by rounding tie."""
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    spread = high - low
    constant = spread <= _NOISE * torch.maximum(low.abs(), high.abs())
    scaled = torch.where(constant, 0.0, (values - low) / torch.where(constant, 1.0, spread))
    return (upsampled(scaled, size) * _LEVELS).round().long()


def centred(size: tuple[int, int]) -> Tensor:
    """The centre prior (H, W): a Gaussian at the centre whose deviations are a quarter of the sides."""
    rows, columns = (((torch.arange(side) + 0.5) / side - 0.5) / 0.25 for side in size)
    return (-(rows[:, None] ** 2 + columns**2) / 2).exp()
