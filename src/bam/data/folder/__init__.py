"""Folders of images in ImageNet's layout, "folder:PATH", read on demand."""

from pathlib import Path
from typing import Any

import torch

from bam.data.folder.dataset import FolderBatches, FolderDataset
from bam.data.folder.options import FolderOptions
from bam.data.folder.scanning import find_images, locate


def load_folder(path: str, root: Path, **options: Any) -> tuple[FolderDataset, FolderDataset]:
    """Return (train, test) of the folder at `path` or `root`/`path`.

    The folder holds either train/ and val/ (or valid/, validation/, test/: the first that exists), each with one folder
    per class, or just the class folders. These are split class by class, always in the same way. Classes are sorted by
    name; two Unicode forms of a name are one class.

    Args:
        path: the folder.
        root: where to look for it if `path` itself does not exist.
        **options: the fields of `FolderOptions`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the folder has another layout, or for an unknown or invalid option.
    """
    folder_options = FolderOptions.read(options)
    folder = locate(path, root)
    *parts, notes = find_images(folder, folder_options.val_share)
    train, test = (
        FolderDataset(
            images.paths, torch.tensor(images.targets), images.classes, folder_options, images.part, tuple(notes)
        )
        for images in parts
    )
    return train, test


__all__ = ["FolderBatches", "FolderDataset", "FolderOptions", "load_folder"]
