"""The annotated images of a split, and checks of boxes against their images."""

from typing import NamedTuple

import torch
from torch import Tensor

from bam.data.boxes.objects import Objects
from bam.data.files.decoding import is_turned

_NUM_OPENED = 100  # images checked for EXIF orientation


class AnnotatedImages(NamedTuple):
    """The images of a split as its annotations describe them; every list has one entry per image.

    Attributes:
        paths: paths of the images.
        objects: objects in each image.
        sizes: (height, width) in pixels.
        image_ids: ids of the images in the annotations.
    """

    paths: list[str]
    objects: list[Objects]
    sizes: list[tuple[int, int]]
    image_ids: list[int]


def turned_note(paths: list[str], exif: str) -> tuple[str, ...]:
    """A note if EXIF turns any of a sample of images; none if `exif` is "turn": their boxes are then turned, too."""
    if exif == "turn":
        return ()
    step = max(1, len(paths) // _NUM_OPENED)
    turned = next(filter(is_turned, paths[::step][:_NUM_OPENED]), None)
    if turned is None:
        return ()
    note = f"EXIF turns some images for display, e.g. {turned}; if their boxes are for the turned images"
    return (f"""{note}, add --data-options '{{"exif": "turn"}}'""",)


def clipped(boxes: Tensor, height: Tensor | int, width: Tensor | int) -> tuple[Tensor, Tensor]:
    """Clip boxes to their images.

    Args:
        boxes: float64 (n, 4), xyxy in pixels.
        height: height of the image in pixels, or (n,), of the image of each box.
        width: likewise.

    Returns:
        The clipped boxes, float32 (n, 4), and which of them still have an area, bool (n,).
    """
    width, height = torch.as_tensor(width), torch.as_tensor(height)
    limits = torch.stack([width, height, width, height], dim=-1).to(boxes.dtype)
    within = torch.minimum(boxes.clamp(min=0), limits).float()
    return within, (within[:, 2:] > within[:, :2]).all(1)


def invalid_box(where: str, box: list[float], size: tuple[int, int]) -> ValueError:
    """The error for a box without area in its image.

    Args:
        where: file and object.
        box: xyxy in pixels, as annotated.
        size: height and width of the image in pixels.
    """
    corners = ", ".join(f"{value:g}" for value in box)
    return ValueError(
        f"{where} has a box without area in its image of {size[1]} x {size[0]} pixels: x1, y1, x2, y2 = {corners}. "
        """Correct it, or leave such boxes out: --data-options '{"invalid": "drop"}'"""
    )
