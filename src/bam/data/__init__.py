"""Data sets by name, whole in memory as uint8, and batches made on the device."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bam.data.batches import Batches
from bam.data.cifar100 import cifar100
from bam.data.dataset import Dataset
from bam.data.digits import digits

#: Name -> loader(root, **options) -> (train, test).
DATA: dict[str, Callable[..., tuple[Dataset, Dataset]]] = {"digits": digits, "cifar100": cifar100}


def load(name: str, root: str | Path | None = None, **options: Any) -> tuple[Dataset, Dataset]:
    """(train, test) of a data set in `DATA`; `root` defaults to the environment variable BAM_DATA, or "data"."""
    if name not in DATA:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATA)}")
    return DATA[name](Path(root or os.environ.get("BAM_DATA") or "data"), **options)


__all__ = ["DATA", "Batches", "Dataset", "cifar100", "digits", "load"]
