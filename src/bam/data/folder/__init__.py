"""Folders of images in ImageNet's layout, "folder:PATH", read when they are needed."""

from pathlib import Path
from typing import Any

import torch

from bam.data.folder.dataset import FolderBatches, FolderDataset
from bam.data.folder.options import FolderOptions
from bam.data.folder.scanning import find_images, locate, part_names


def load_folder(path: str, root: Path, **options: Any) -> tuple[FolderDataset, FolderDataset]:
    """Return (train, test) of the folder at `path` or `root`/`path`.

    It holds either train/ and val/ (or validation/, or test/), each with one folder per class; or the class folders
    themselves, which are split class by class, always in the same way. Classes are sorted by name.

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
    parts = find_images(folder, folder_options.val_share)
    train, test = (
        FolderDataset(images.paths, torch.tensor(images.targets), images.classes, folder_options, name)
        for images, name in zip(parts, part_names(folder, folder_options.val_share), strict=True)
    )
    return train, test


__all__ = ["FolderBatches", "FolderDataset", "FolderOptions", "load_folder"]
