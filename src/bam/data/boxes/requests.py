"""Messages between the training process and its decoding workers."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from bam.data.files.stream import AugmentationSeed


class BoxRequest(NamedTuple):
    """Images to decode; every list has one entry per image.

    Boxes and labels are numpy arrays: sent between processes, each tensor would take a file descriptor.

    Attributes:
        numbers: numbers of the images in the data set.
        names: paths, or for images in memory, names for messages.
        sizes: (height, width) as annotated, in pixels.
        boxes: float32 (n, 4), xyxy in pixels.
        labels: int64 (n,).
        seed: seed of the augmentation.
    """

    numbers: list[int]
    names: list[str]
    sizes: list[tuple[int, int]]
    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    seed: AugmentationSeed


class BoxDecoded(NamedTuple):
    """n decoded images with m boxes in all; pixels, boxes and labels of all images are concatenated.

    Attributes:
        pixels: uint8 (sum of 3 H W,).
        sizes: (height, width) of each image, in pixels.
        boxes: float32 (m, 4), xyxy in pixels.
        labels: int64 (m,).
        counts: number of boxes in each image.
        numbers: numbers of the images in the data set, int64 (n,).
        unreadable: (name, problem) of each other image of the request.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]
    boxes: Tensor
    labels: Tensor
    counts: list[int]
    numbers: Tensor
    unreadable: list[tuple[str, str]]
