"""Handwritten digits among clutter: real images for trying everything out without a download."""

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bam.data.dataset import Dataset
from bam.data.files.options import is_whole

_NUM_TRAIN_DIGITS = 1297  # of 1,797; the rest are for testing
_NUM_PIECES = 8


@functools.lru_cache(maxsize=1)  # the runs of a comparison share it
def digits(
    root: Path | None = None, *, canvas: int = 32, num_train: int = 5000, num_test: int = 2000, seed: int = 0
) -> tuple[Dataset, Dataset]:
    """Return (train, test): a digit at a random position and scale on a dark canvas, with pieces of others as clutter.

    The digits are scikit-learn's 1,797 (Alpaydin and Kaynak 1998, UCI); training and test images share none. `boxes`
    enclose the digits. The same arguments give the same images.

    Args:
        root: ignored; every loader takes it.
        canvas: side of the images in pixels, from 16 to 256.
        num_train: training images.
        num_test: test images.
        seed: seed of positions, scales and clutter.

    Raises:
        ValueError: for a canvas outside this range, fewer than one image, or a negative seed.
    """
    check_sizes(canvas, 16, num_train, num_test, seed)
    seeds = 2 * seed, 2 * seed + 1
    train, test = (
        _compose(*source, canvas, count, np.random.default_rng(part_seed))
        for source, count, part_seed in zip(handwritten(), (num_train, num_test), seeds, strict=True)
    )
    return train, test


def check_sizes(canvas: int, least: int, num_train: int, num_test: int, seed: int) -> None:
    """Raise ValueError if an option of a digit data set is invalid; `least` is the smallest canvas."""
    if not (is_whole(canvas, least) and canvas <= 256):  # beyond that, the scaled digits fill the memory
        raise ValueError(f"digits: canvas must be a number of pixels from {least} to 256, got {canvas!r}")
    for name, value, smallest in (("num_train", num_train, 1), ("num_test", num_test, 1), ("seed", seed, 0)):
        if not is_whole(value, smallest):
            raise ValueError(f"digits: {name} must be a whole number, at least {smallest}, got {value!r}")


def handwritten() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test digits: pixels from 0 to 255, float32 (n, 8, 8), and classes, int64 (n,)."""
    from sklearn.datasets import load_digits

    source = load_digits()
    order = np.random.default_rng(0).permutation(len(source.target))
    small = torch.from_numpy(source.images[order]).float() / 16 * 255
    target = torch.from_numpy(source.target[order]).long()
    count = _NUM_TRAIN_DIGITS
    return (small[:count], target[:count]), (small[count:], target[count:])


def _compose(small: Tensor, target: Tensor, canvas: int, count: int, random: np.random.Generator) -> Dataset:
    low, high = round(0.4 * canvas), round(0.55 * canvas)
    scaled = {side: resized(small, side) for side in range(low, high + 1)}  # side -> (n, side, side)
    piece = canvas // 5
    images = np.zeros((count, canvas, canvas), dtype=np.uint8)
    boxes = np.zeros((count, 4), dtype=np.int64)
    chosen = random.integers(len(small), size=count)
    sides = random.integers(low, high + 1, size=(count, 1 + _NUM_PIECES))
    clutter = random.integers(len(small), size=(count, _NUM_PIECES))
    places = random.random((count, 1 + _NUM_PIECES, 4))  # (from, to), each (y, x), as shares of the free space
    for k, image in enumerate(images):
        digit = scaled[sides[k, 0]][chosen[k]]
        top, left = (places[k, 0, :2] * (canvas - len(digit) + 1)).astype(int)
        paste(image, digit, top, left)
        rows, columns = np.nonzero(digit > 40)
        boxes[k] = left + columns.min(), top + rows.min(), left + columns.max() + 1, top + rows.max() + 1
        for other, side, (y, x, to_y, to_x) in zip(clutter[k], sides[k, 1:], places[k, 1:], strict=True):
            y, x = int(y * (side - piece + 1)), int(x * (side - piece + 1))
            to_y, to_x = int(to_y * (canvas - piece + 1)), int(to_x * (canvas - piece + 1))
            paste(image, scaled[side][other, y : y + piece, x : x + piece], to_y, to_x)
    rgb = torch.from_numpy(images)[..., None].expand(-1, -1, -1, 3).contiguous()
    return Dataset(rgb, target[torch.from_numpy(chosen)], tuple("0123456789"), torch.from_numpy(boxes))


def resized(small: Tensor, side: int) -> np.ndarray:
    """Resize digits (n, 8, 8) to uint8 (n, side, side)."""
    larger = F.interpolate(small[:, None], (side, side), mode="bicubic", align_corners=False)[:, 0]
    return larger.clamp(0, 255).round().to(torch.uint8).numpy()


def paste(image: np.ndarray, patch: np.ndarray, top: int, left: int) -> None:
    """Paste a patch into an image, in place; each pixel keeps the brighter of the two values."""
    region = image[top : top + patch.shape[0], left : left + patch.shape[1]]
    np.maximum(region, patch, out=region)
