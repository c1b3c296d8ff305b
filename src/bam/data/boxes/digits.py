"""Handwritten digits among clutter, each with its box: for trying detection without a download."""

from pathlib import Path
from typing import Any

from bam.data.boxes.dataset import BoxDataset
from bam.data.boxes.objects import Objects
from bam.data.boxes.options import BoxOptions
from bam.data.dataset import Dataset
from bam.data.digits import digits

_UNUSED = ("train", "test", "invalid", "classes")


def digits_boxes(
    root: Path | None = None,
    *,
    canvas: int = 32,
    num_train: int = 5000,
    num_test: int = 2000,
    seed: int = 0,
    **options: Any,
) -> tuple[BoxDataset, BoxDataset]:
    """(train, test): the images of `bam.data.digits`, with one object in each, the digit.

    Args:
        root: ignored; every data set takes it.
        canvas: side of the images in pixels, at least 16.
        num_train: training images.
        num_test: test images.
        seed: of placement, scale and clutter.
        **options: those of `BoxOptions` that have a meaning here.

    Raises:
        ValueError: for an option that is none or cannot be meant.
    """
    given = {"num_train": num_train, "num_test": num_test, **options}
    read = BoxOptions.read(given, "digits", own=("canvas", "seed"), unused=_UNUSED)
    train, test = digits(canvas=canvas, num_train=num_train, num_test=num_test, seed=seed)
    return _with_boxes(train, read), _with_boxes(test, read)


def _with_boxes(images: Dataset, options: BoxOptions) -> BoxDataset:
    assert images.boxes is not None  # digits have them
    count = len(images)
    return BoxDataset(
        images.images,
        [Objects.of(box, label) for box, label in zip(images.boxes, images.targets[:, None] + 1, strict=True)],
        images.classes,
        options,
        [images.image_size] * count,
        image_ids=list(range(1, count + 1)),
        category_ids=list(range(1, len(images.classes) + 1)),
        protocol="coco",
    )
