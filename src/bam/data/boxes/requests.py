"""What the process that trains and those that decode send each other."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from bam.data.files.stream import AugmentationSeed


class BoxRequest(NamedTuple):
    """Images to decode; every list has one entry per image.

    Boxes and labels are numpy arrays: sent between processes, each tensor would take a file descriptor.

    Attributes:
        numbers: of the images in the data set.
        names: paths, or for images in memory, names for messages.
        sizes: (height, width) as annotated, in pixels.
        boxes: float32 (n, 4), xyxy in pixels.
        labels: int64 (n,).
        seed: what to augment the images by.
    """

    numbers: list[int]
    names: list[str]
    sizes: list[tuple[int, int]]
    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    seed: AugmentationSeed


class BoxDecoded(NamedTuple):
    """Decoded images, n of them, with m boxes in all; those of all images are concatenated.

    Attributes:
        pixels: uint8 (sum of 3 H W,).
        sizes: (height, width) of each image, in pixels.
        boxes: float32 (m, 4), xyxy in pixels.
        labels: int64 (m,).
        counts: number of boxes in each image.
        numbers: of the images in the data set, int64 (n,).
        unreadable: (name, what is wrong with it) of the other images of the request.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]
    boxes: Tensor
    labels: Tensor
    counts: list[int]
    numbers: Tensor
    unreadable: list[tuple[str, str]]
