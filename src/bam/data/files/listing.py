"""Find the image files that a user names or that a folder holds, and say why other files are skipped."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

_NUM_SHOWN = 5  # reasons in a message

TWICE = "reached twice through links"

Skipped = Counter[str]  #: reason for skipping files -> number of files


class ListedImage(NamedTuple):
    """An image below a folder: its path, and the same path without links."""

    path: str
    real: str


def find_files(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The image files that `paths` name, each once, and notes for the user.

    A folder stands for the images directly inside it, and a note says what else it holds.

    Raises:
        ValueError: for no paths.
        FileNotFoundError: for a missing path, or a folder without images.
    """
    if not paths:
        raise ValueError("name at least one image, or a folder of images")
    files: list[Path] = []
    skipped = Skipped()
    for path in paths:
        images = _directly_in(path, skipped) if path.is_dir() else [path]
        if not images:
            raise FileNotFoundError(f"the folder {path} holds no images ({', '.join(IMG_EXTENSIONS)})")
        if not path.exists():
            raise FileNotFoundError(f"there is no image {path}")
        files += images
    return list(dict.fromkeys(files)), [skipped_note(skipped)] if skipped else []


def list_below(folder: str, skipped: Skipped) -> list[ListedImage]:
    """The images at any depth below `folder`, in the order of torchvision's ImageFolder.

    Links to folders are followed after the folders themselves, and no folder is entered twice. Hidden folders and links
    to a folder above them are skipped.
    """
    images: list[ListedImage] = []
    entered: set[str] = set()
    folders: list[tuple[str, str]] = [(folder, os.path.realpath(folder))]
    links: list[tuple[str, str]] = []
    while folders or links:
        path, real = folders.pop() if folders else links.pop(0)
        if real in entered:
            skipped[TWICE] += 1
            continue
        entered.add(real)
        for entry in entries_of(path):
            below = os.path.join(real, entry.name)
            if not is_folder(entry) or entry.name.startswith("."):
                if reason := _reason(entry):
                    skipped[reason] += 1
                else:
                    images.append(ListedImage(entry.path, os.path.realpath(below) if entry.is_symlink() else below))
            elif not entry.is_symlink():
                folders.append((entry.path, below))
            elif _is_above(target := os.path.realpath(below), real):
                skipped["linking to a folder above"] += 1
            else:
                links.append((entry.path, target))
    return sorted(images, key=lambda image: os.path.split(image.path))


def entries_of(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a folder's entry is read as an image: a visible file with the suffix of an image."""
    return not _reason(entry)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether a folder's entry is a folder, or a link to one."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def skipped_note(skipped: Skipped) -> str:
    """A note on how many files were skipped, and why."""
    shown = skipped.most_common(_NUM_SHOWN)
    more = skipped.total() - sum(count for _, count in shown)
    reasons = [f"{count} {reason}" for reason, count in shown] + [f"{more} for other reasons"] * bool(more)
    return f"skipped: {', '.join(reasons)} (images are {', '.join(IMG_EXTENSIONS)})"


def check_not_overwritten(files: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raise ValueError if one of `outputs` would be written over one of the user's files."""
    overwritten = {file.resolve() for file in files} & {output.resolve() for output in outputs}
    if overwritten:
        raise ValueError(f"{overwritten.pop()} would be overwritten; choose another --out")


def _directly_in(folder: Path, skipped: Skipped) -> list[Path]:
    images = []
    for entry in entries_of(folder):
        reason = _reason(entry)
        if not reason:
            images.append(Path(entry))
        elif not is_folder(entry):
            skipped[reason] += 1
    return images


def _reason(entry: os.DirEntry[str]) -> str:
    """Why a folder's entry is not read as an image; "" if it is."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if entry.name.startswith("."):
        return "hidden"
    if suffix not in IMG_EXTENSIONS:
        return suffix or "without a suffix"
    if entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path) or not os.path.exists(entry.path):
        return ""  # a broken link is a damaged image
    return "not a regular file"


def _is_above(folder: str, other: str) -> bool:
    return os.path.commonpath([folder, other]) == folder
