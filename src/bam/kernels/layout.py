"""The memory layout of feature maps, and maps flattened without a copy."""

import torch
from torch import Tensor


def is_channels_last(features: Tensor) -> bool:
    """Whether a tensor (N, C, H, W) is stored as NHWC and does not also count as NCHW.

    `Tensor.is_contiguous(memory_format=torch.channels_last)` fails under `torch.func.vmap`; this check does not.
    """
    return features.dim() == 4 and not features.is_contiguous() and features.permute(0, 2, 3, 1).is_contiguous()


def as_nchw(maps: Tensor) -> Tensor:
    """`maps` stored as NCHW. With one channel, `contiguous()` keeps channels_last strides; `view` renormalises them."""
    maps = maps.contiguous()
    return maps if maps.stride(1) == maps.shape[2] * maps.shape[3] else maps.view(maps.shape)


def flat(maps: Tensor, last: bool) -> Tensor:
    """(N, C, H, W) as (N, H W, C) for channels_last maps, else as (N, C, H W)."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2) if last else maps.flatten(2)


def unflat(values: Tensor, shape: torch.Size, last: bool) -> Tensor:
    """The inverse of `flat`, for maps of `shape`."""
    return values.unflatten(1, shape[2:]).permute(0, 3, 1, 2) if last else values.view(shape)
