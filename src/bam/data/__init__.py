"""Data sets by name. `LabelledImages` and `BatchSource` are the interfaces they share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bam.data.boxes import BoxDataset, coco, digits_boxes, voc0712, voc2007
from bam.data.cifar100 import cifar100
from bam.data.dataset import Batches, Dataset
from bam.data.digits import digits
from bam.data.interface import BatchSource, LabelledImages, Unreadable
from bam.data.plan import epoch_generator
from bam.data.questions import QuestionDataset, digits_questions

#: Name -> loader(root, **options) -> (train, test). `load` also takes folders of images, "folder:PATH".
DATA: dict[str, Callable[..., tuple[LabelledImages, LabelledImages]]] = {"digits": digits, "cifar100": cifar100}

#: Name -> loader(root, **options) -> (train, test), for images with boxes.
BOXES: dict[str, Callable[..., tuple[BoxDataset, BoxDataset]]] = {
    "digits": digits_boxes,
    "voc2007": voc2007,
    "voc0712": voc0712,
    "coco": coco,
}


def _vqa2(root: Path, **options: Any) -> tuple[QuestionDataset, QuestionDataset]:
    from bam.data.questions.vqa2 import vqa2  # needs torchvision; the digits do not

    return vqa2(root, **options)


#: Name -> loader(root, **options) -> (train, test), for images with questions.
QUESTIONS: dict[str, Callable[..., tuple[QuestionDataset, QuestionDataset]]] = {
    "digits": digits_questions,
    "vqa2": _vqa2,
}


def load(name: str, root: str | Path | None = None, **options: Any) -> tuple[LabelledImages, LabelledImages]:
    """Load a data set for classification; return (train, test).

    Args:
        name: a name in `DATA`, or "folder:PATH" for a folder with one folder per class, see
            `bam.data.folder.load_folder`.
        root: the folder that holds the data; default: the environment variable BAM_DATA, or "data".
        **options: options of the data set's loader.

    Raises:
        ValueError: for an unknown name, or a data set with boxes instead of classes.
    """
    root = _root(root)
    kind, _, path = name.partition(":")
    if kind == "folder":
        from bam.data.folder import load_folder  # needs torchvision; the others do not

        return load_folder(path, root, **options)
    if name in BOXES and name not in DATA:
        raise ValueError(f"the data set {name!r} has boxes and is for detection: add --task detection")
    if name not in DATA:
        raise ValueError(
            f"unknown data set {name!r}; known: {', '.join(DATA)} and folder:PATH, images in class folders"
        )
    return DATA[name](root, **options)


def load_boxes(name: str, root: str | Path | None = None, **options: Any) -> tuple[BoxDataset, BoxDataset]:
    """Load a data set for detection; return (train, test).

    Args:
        name: a name in `BOXES`.
        root: as for `load`.
        **options: options of the data set's loader.

    Raises:
        ValueError: for an unknown name, or a data set without boxes.
    """
    if name not in BOXES and (name in DATA or name.startswith("folder:")):
        raise ValueError(
            f"the data set {name!r} has no boxes: use it for classification, without --task detection; "
            f"data sets with boxes: {', '.join(BOXES)}"
        )
    if name not in BOXES:
        raise ValueError(f"unknown data set {name!r}; known data sets with boxes: {', '.join(BOXES)}")
    return BOXES[name](_root(root), **options)


def load_questions(
    name: str, root: str | Path | None = None, **options: Any
) -> tuple[QuestionDataset, QuestionDataset]:
    """Load a data set with questions; return (train, test).

    Args:
        name: a name in `QUESTIONS`.
        root: as for `load`.
        **options: options of the data set's loader.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in QUESTIONS:
        raise ValueError(f"unknown data set {name!r}; known data sets with questions: {', '.join(QUESTIONS)}")
    return QUESTIONS[name](_root(root), **options)


def _root(root: str | Path | None) -> Path:
    return Path(root or os.environ.get("BAM_DATA") or "data")


__all__ = [
    "BOXES",
    "DATA",
    "QUESTIONS",
    "BatchSource",
    "Batches",
    "BoxDataset",
    "Dataset",
    "LabelledImages",
    "QuestionDataset",
    "Unreadable",
    "cifar100",
    "digits",
    "epoch_generator",
    "load",
    "load_boxes",
    "load_questions",
]
