"""Handwritten digits among clutter, with boxes: for trying detection without a download."""

from pathlib import Path
from typing import Any

from bam.data.boxes.dataset import BoxDataset
from bam.data.boxes.objects import Objects
from bam.data.boxes.options import BoxOptions
from bam.data.dataset import Dataset
from bam.data.digits import digits

_UNUSED = ("train", "test", "invalid", "exif", "classes")


def digits_boxes(
    root: Path | None = None,
    *,
    canvas: int = 32,
    num_train: int = 5000,
    num_test: int = 2000,
    seed: int = 0,
    **options: Any,
) -> tuple[BoxDataset, BoxDataset]:
    """Return (train, test): the images of `bam.data.digits`, each with the digit as its one object.

    Args:
        root: ignored; every loader takes it.
        canvas: side of the images in pixels, from 16 to 256.
        num_train: training images.
        num_test: test images.
        seed: seed of positions, scales and clutter.
        **options: the fields of `BoxOptions` that apply here.

    Raises:
        ValueError: for an unknown or invalid option.
    """
    named = {"num_train": num_train, "num_test": num_test, **options}
    box_options = BoxOptions.read(named, "digits", extra=("canvas", "seed"), unused=_UNUSED)
    train, test = digits(canvas=canvas, num_train=num_train, num_test=num_test, seed=seed)
    return _with_boxes(train, box_options), _with_boxes(test, box_options)


def _with_boxes(dataset: Dataset, options: BoxOptions) -> BoxDataset:
    assert dataset.boxes is not None  # the digits have them
    count = len(dataset)
    return BoxDataset(
        dataset.images,
        [Objects.of(box, label) for box, label in zip(dataset.boxes, dataset.targets[:, None] + 1, strict=True)],
        dataset.classes,
        options,
        [dataset.image_size] * count,
        image_ids=list(range(1, count + 1)),
        category_ids=list(range(1, len(dataset.classes) + 1)),
        protocol="coco",
    )
