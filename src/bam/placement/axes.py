"""Which axis of a tensor is which: (N, C, H, W), (N, H, W, C) or unknown, followed from operation to operation."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

#: For each axis of a tensor its place in (N, C, H, W); None: not known, or not a feature map.
Axes = tuple[int, ...] | None
NCHW, NHWC = (0, 1, 2, 3), (0, 2, 3, 1)

_TAKE_NCHW = ("conv", "batch_norm", "group_norm", "instance_norm", "pool2d", "interpolate", "pixel_shuffle")
_PERMUTE = ("permute", "transpose", "movedim", "swapaxes", "moveaxis", "swapdims")
_RESHAPE = ("reshape", "view", "flatten", "unflatten", "unfold", "fold", "squeeze", "unsqueeze", "__getitem__")


def follow(
    func: Callable,
    op: str,
    args: Any,
    kwargs: Any,
    sources: list[Axes],
    shape: Sequence[int],
    past: tuple[int, ...],
    past_axes: Axes = NCHW,
) -> Axes:
    """The axes of a result of `shape` that `func(*args)` made of tensors with axes `sources`.

    `past` is the (C, H, W) of the last map known before, which had `past_axes`: a tensor that comes back to it from
    tokens, windows or groups is recognised by its sizes, as is one where blocks of places were moved into channels
    (space to depth) or back.
    """
    if len(shape) != 4 or op == "pad":  # what is padded for the next layer is no feature map of its own
        return None
    if any(word in op for word in _TAKE_NCHW):
        return NCHW
    known = next((axes for axes in sources if axes is not None), None)
    if known is not None and op in _PERMUTE:
        sides = (2, 3, 5, 7)  # all different: the result's shape tells the permutation
        permuted = func(torch.empty(sides, device="meta"), *args[1:], **kwargs).shape
        return tuple(known[sides.index(side)] for side in permuted)
    if known is not None and not any(word in op for word in _RESHAPE):
        return known
    if op == "__getitem__" and known is not None and getattr(args[0], "ndim", 0) == 4:
        return known
    likely = [past_axes, NCHW, NHWC]
    tokens: Sequence[int] = getattr(args[0], "shape", ())
    if len(tokens) == 3 and len(past) == 3:  # (N, C, places) or (N, places, C)
        likely = [NCHW, NHWC] if tokens[1] == past[0] and tokens[2] == past[1] * past[2] else [NHWC, NCHW]
    return next((axes for axes in likely if axes in (NCHW, NHWC) and _is(arranged(shape, axes), past)), None)


def arranged(shape: Sequence[int], axes: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) of a tensor of `shape` with these `axes`."""
    channels, height, width = (shape[axes.index(k)] for k in (1, 2, 3))
    return channels, height, width


def _is(found: tuple[int, ...], past: tuple[int, ...]) -> bool:
    """Whether `found` (C, H, W) is `past`, or holds as many values with its places in blocks of k x k."""
    if len(past) != 3 or math.prod(found) != math.prod(past) or 0 in found:
        return False
    small, large = sorted((found, past), key=lambda sizes: sizes[1])
    blocks = large[1] // small[1]
    return large[1:] == (blocks * small[1], blocks * small[2])
