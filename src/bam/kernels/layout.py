"""The memory layout of feature maps, and maps flattened without a copy."""

import torch
from torch import Tensor


def is_channels_last(features: Tensor) -> bool:
    """Whether a tensor (N, C, H, W) is stored as NHWC and does not also count as NCHW.

    `Tensor.is_contiguous(memory_format=torch.channels_last)` fails under `torch.func.vmap`; this check does not.
    """
    return features.dim() == 4 and not features.is_contiguous() and features.permute(0, 2, 3, 1).is_contiguous()


def prefers_nchw(channels: int, device: torch.device) -> bool:
    """Whether convolutions between so few channels, and their BatchNorms, are faster in NCHW than in channels_last.

    With oneDNN on a CPU, they are up to four times as fast, and from 16 channels on equally fast.
    """
    return device.type == "cpu" and channels < 16


def as_nchw(maps: Tensor) -> Tensor:
    """`maps` stored as NCHW, with its strides: `Tensor.contiguous` leaves one channel with those of channels_last."""
    return maps.contiguous().view(maps.shape)


def flat(maps: Tensor, last: bool) -> Tensor:
    """(N, C, H, W) as (N, H W, C) for channels_last maps, else as (N, C, H W)."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2) if last else maps.flatten(2)


def unflat(values: Tensor, shape: torch.Size, last: bool) -> Tensor:
    """The inverse of `flat`, for maps of `shape`."""
    return values.unflatten(1, shape[2:]).permute(0, 3, 1, 2) if last else values.view(shape)
