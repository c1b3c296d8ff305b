"""Maps over the places of an image: where attention is strong, upsampled and put in order."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bam.attention.contract import AttentionMaps

_LEVELS = 1_000_000  #: differences below a millionth of a map's range are rounding
_NOISE = 1e-6  #: so is a range below a millionth of the largest value


def place_map_name(maps: AttentionMaps) -> str:
    """Which map `place_map` is."""
    return "gain" if maps.spatial_logits is None else "spatial logits"


def place_map(maps: AttentionMaps) -> Tensor:
    """What ranks the places, float32 (N, h, w): the spatial logits, or the gain of a module without them."""
    return maps.gain.float() if maps.spatial_logits is None else maps.spatial_logits[:, 0].float()


def strength(maps: AttentionMaps) -> Tensor:
    """How strong attention is at each place, float32 (N, h, w), not negative: sigmoid(Ms(F)), or the gain.

    A negative gain counts as 0. Where no place of an image gains, it is the factor 1 + gain, what is left of each.
    """
    if maps.spatial_logits is not None:
        return maps.spatial_logits[:, 0].float().sigmoid()
    gain = maps.gain.float()
    gains = (gain > 0).flatten(1).any(1)[:, None, None]
    return torch.where(gains, gain, 1 + gain).clamp(min=0)


def shares(values: Tensor) -> Tensor:
    """Maps (N, h, w) that are not negative, as float64 shares that add up to 1; a map of zeros becomes uniform."""
    values = values.double()
    total = values.sum((1, 2), keepdim=True)
    return torch.where(total > 0, values / total.clamp(min=1e-300), 1 / values[0].numel())


def upsampled(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) at the size of the image, bilinear: (N, H, W)."""
    return F.interpolate(values[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def levels(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) at the size of the image in whole numbers (N, H, W): places that differ by rounding are equal."""
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    spread = high - low
    constant = spread <= _NOISE * torch.maximum(low.abs(), high.abs())
    scaled = torch.where(constant, 0.0, (values - low) / torch.where(constant, 1.0, spread))
    return (upsampled(scaled, size) * _LEVELS).round().long()


def centred(size: tuple[int, int]) -> Tensor:
    """The centre prior (H, W): a Gaussian at the centre, with deviations of a quarter of the sides."""
    rows, columns = (((torch.arange(side) + 0.5) / side - 0.5) / 0.25 for side in size)
    return (-(rows[:, None] ** 2 + columns**2) / 2).exp()
