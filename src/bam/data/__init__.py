"""Data sets by name, and batches made on the device; `LabelledImages` and `BatchSource` say what all of them offer."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bam.data.batches import Batches
from bam.data.cifar100 import cifar100
from bam.data.dataset import Dataset
from bam.data.digits import digits
from bam.data.interface import BatchSource, LabelledImages, Unreadable, epoch_generator

#: Name -> loader(root, **options) -> (train, test). Folders of images come as "folder:PATH", see `load`.
DATA: dict[str, Callable[..., tuple[LabelledImages, LabelledImages]]] = {"digits": digits, "cifar100": cifar100}


def load(name: str, root: str | Path | None = None, **options: Any) -> tuple[LabelledImages, LabelledImages]:
    """(train, test) of a data set.

    Args:
        name: a name in `DATA`, or "folder:PATH" for images in a folder per class, see `bam.data.folder.load_folder`.
        root: where data lie; default: the environment variable BAM_DATA, or "data".
        **options: of the data set's loader.
    """
    root = Path(root or os.environ.get("BAM_DATA") or "data")
    kind, _, path = name.partition(":")
    if kind == "folder":
        from bam.data.folder import load_folder  # it needs torchvision, which others do without

        return load_folder(path, root, **options)
    if name not in DATA:
        raise ValueError(
            f"unknown data set {name!r}; known: {', '.join(DATA)} and folder:PATH, images in class folders"
        )
    return DATA[name](root, **options)


__all__ = [
    "DATA",
    "BatchSource",
    "Batches",
    "Dataset",
    "LabelledImages",
    "Unreadable",
    "cifar100",
    "digits",
    "epoch_generator",
    "load",
]
