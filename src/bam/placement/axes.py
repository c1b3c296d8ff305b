"""Track the axis order of tensors from operation to operation: (N, C, H, W), (N, H, W, C) or unknown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bam.placement.operation import Operation

#: The position in (N, C, H, W) of each axis of a tensor; None if unknown, or if the tensor is not a feature map.
Axes = tuple[int, ...] | None
NCHW, NHWC = (0, 1, 2, 3), (0, 2, 3, 1)

_RETURN_NCHW = ("conv", "batch_norm", "group_norm", "instance_norm", "pool2d", "interpolate", "pixel_shuffle")
_PERMUTE = ("permute", "transpose", "movedim", "swapaxes", "moveaxis", "swapdims")
_RESHAPE = ("reshape", "view", "flatten", "unflatten", "unfold", "fold", "squeeze", "unsqueeze", "__getitem__")


@dataclass(frozen=True)
class FeatureMap:
    """The sizes of a feature map, and the order of its axes."""

    sizes: tuple[int, int, int]  #: (C, H, W)
    axes: tuple[int, ...] = NCHW


def follow(
    operation: Operation, shape: Sequence[int], source_axes: Sequence[Axes], last_map: FeatureMap | None
) -> Axes:
    """The axes of a tensor of `shape` that `operation` returned.

    A map that was split into tokens, windows or groups and put together again is recognised by its sizes, which are
    those of the last map. So is a map whose blocks of k x k places became channels (space to depth), or the reverse.

    Args:
        operation: the call.
        shape: the result's shape.
        source_axes: the axes of its inputs with four dimensions.
        last_map: the last feature map before the result, if there was one.
    """
    name, args = operation.name, operation.args
    if len(shape) != 4 or name == "pad":  # a padded map is only an intermediate step of the next layer
        return None
    if any(word in name for word in _RETURN_NCHW):
        return NCHW
    known = next((axes for axes in source_axes if axes is not None), None)
    if known is not None and name in _PERMUTE:
        sides = (2, 3, 5, 7)  # all different, so that the shape of the result gives the permutation
        permuted = operation.function(torch.empty(sides, device="meta"), *args[1:], **operation.kwargs).shape
        return tuple(known[sides.index(side)] for side in permuted)
    if known is not None and not any(word in name for word in _RESHAPE):
        return known
    if known is not None and name == "__getitem__" and getattr(args[0], "ndim", 0) == 4:
        return known
    if last_map is None:
        return None
    orders = [last_map.axes, NCHW, NHWC]
    tokens: Sequence[int] = getattr(args[0], "shape", ())
    if len(tokens) == 3:  # (N, C, places) or (N, places, C)
        channels, height, width = last_map.sizes
        orders = [NCHW, NHWC] if tokens[1] == channels and tokens[2] == height * width else [NHWC, NCHW]
    return next((axes for axes in orders if axes in (NCHW, NHWC) and _can_hold(last_map, sizes_of(shape, axes))), None)


def sizes_of(shape: Sequence[int], axes: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) of a tensor of `shape` with these `axes`."""
    channels, height, width = (shape[axes.index(position)] for position in (1, 2, 3))
    return channels, height, width


def _can_hold(last_map: FeatureMap, sizes: tuple[int, int, int]) -> bool:
    """Whether a tensor of `sizes` (C, H, W) can hold the values of `last_map`, also in blocks of k x k places."""
    if math.prod(sizes) != math.prod(last_map.sizes) or 0 in sizes:
        return False
    small, large = sorted((sizes, last_map.sizes), key=lambda either: either[1])
    k = large[1] // small[1]
    return large[1:] == (k * small[1], k * small[2])
