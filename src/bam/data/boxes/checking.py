"""Boxes as annotated, held against their images."""

from typing import NamedTuple

import torch
from torch import Tensor

from bam.data.boxes.objects import Objects


class Annotated(NamedTuple):
    """A part of a data set as its files tell it; an entry for each image, sizes as (height, width)."""

    paths: list[str]
    objects: list[Objects]
    sizes: list[tuple[int, int]]
    image_ids: list[int]


def clipped(boxes: Tensor, height: Tensor | int, width: Tensor | int) -> tuple[Tensor, Tensor]:
    """Boxes without what is outside of their image, and which of them have an area then.

    Args:
        boxes: float64 (n, 4), xyxy in pixels.
        height: of the image; or of each box's image, (n,).
        width: likewise.

    Returns:
        Boxes as float32 (n, 4), and bool (n,).
    """
    width, height = torch.as_tensor(width), torch.as_tensor(height)
    limits = torch.stack([width, height, width, height], dim=-1).to(boxes.dtype)
    within = torch.minimum(boxes.clamp(min=0), limits).float()
    return within, (within[:, 2:] > within[:, :2]).all(1)


def invalid_box(where: str, box: list[float], size: tuple[int, int]) -> ValueError:
    """The error for a box that is no part of its image.

    Args:
        where: file and object.
        box: xyxy in pixels, as annotated.
        size: height and width of the image.
    """
    corners = ", ".join(f"{value:g}" for value in box)
    return ValueError(
        f"{where} has a box without area in its image of {size[1]} x {size[0]} pixels: x1, y1, x2, y2 = {corners}. "
        """Correct it, or leave such boxes out: --data-options '{"invalid": "drop"}'"""
    )
