"""Folders of images in ImageNet's layout, "folder:PATH": read as they are needed."""

from pathlib import Path
from typing import Any

import torch

from bam.data.folder.batches import FolderBatches
from bam.data.folder.dataset import FolderDataset
from bam.data.folder.layout import find_images, locate
from bam.data.folder.options import FolderOptions


def load_folder(path: str, root: Path, **options: Any) -> tuple[FolderDataset, FolderDataset]:
    """(train, test) of the folder at `path`, or at `root`/`path`.

    It holds train/ and val/ (or validation/, or test/), each with a folder for each class; or it holds the folders of
    the classes itself, and is split class by class, always in the same way. Classes are sorted by name.

    Args:
        path: of the folder.
        root: where else to look for it.
        **options: those of `FolderOptions`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is not of this layout, or for an option that is none or cannot be meant.
    """
    read = FolderOptions.read(options)
    found = find_images(locate(path, root), read.val_share)
    train, test = (FolderDataset(part.paths, torch.tensor(part.targets), part.classes, read) for part in found)
    return train, test


__all__ = ["FolderBatches", "FolderDataset", "FolderOptions", "load_folder"]
