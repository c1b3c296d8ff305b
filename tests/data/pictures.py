"""Small image files in folders of classes."""

import numpy as np
import torch
from PIL import Image

from bam.data import load

PLAIN = (torch.zeros(3), torch.ones(3))  # normalization that leaves pixels as they are


def paint(path, seed, size=(50, 40)):
    """A smooth random picture of (width, height) in a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def paint_classes(folder, counts, suffix="png"):
    for number, (name, count) in enumerate(counts.items()):
        for k in range(count):
            paint(folder / name / f"{k}.{suffix}", 100 * number + k, size=(40 + 3 * k, 36 + 5 * number))


def folder(path, **options):
    return load(f"folder:{path}", **{"size": 16, "workers": 0} | options)


def same(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True))
