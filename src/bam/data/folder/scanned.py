"""The images in one part of a folder, and notes about them for the user."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from bam.data.files.listing import Skipped, skipped_note

_MOST = 100_000  # images: with more, finding equal ones would take minutes on a network file system


class ScannedImages(NamedTuple):
    """Paths of images, their class numbers, the names of the classes, and which part of the folder this is."""

    paths: list[str]
    targets: list[int]
    classes: tuple[str, ...]
    part: str


def folder_notes(train: ScannedImages, test: ScannedImages, skipped: Skipped) -> list[str]:
    """Notes on the number of images in each part, skipped files, and test images that equal training images."""
    note = "; ".join([_count("training", train), _count("test", test)])
    if skipped:
        note += f"; {skipped_note(skipped)}"
    return [note, *_equal_images(train.paths, test.paths)]


def _count(kind: str, images: ScannedImages) -> str:
    per_class = Counter(images.targets).values()
    least, most = min(per_class), max(per_class)
    counts = str(least) if least == most else f"{least} to {most}"
    return f"{len(images.paths)} {kind} images ({images.part}), {counts} per class"


def _equal_images(train: Sequence[str], test: Sequence[str]) -> list[str]:
    """A note on test images with the same content as a training image; only files of equal size are read."""
    if len(train) + len(test) > _MOST:
        return []
    by_size: dict[int, list[str]] = {}
    for path in filter(os.path.exists, train):
        by_size.setdefault(os.path.getsize(path), []).append(path)
    digests: dict[int, dict[bytes, str]] = {}  # file size -> digest -> training image
    pairs: list[tuple[str, str]] = []
    for path in filter(os.path.exists, test):
        size = os.path.getsize(path)
        if size in by_size and size not in digests:
            digests[size] = {_digest(other): other for other in reversed(by_size[size])}
        if size in digests and (other := digests[size].get(_digest(path))):
            pairs.append((path, other))
    if not pairs:
        return []
    example = " equals ".join(pairs[0])
    return [f"test images that equal training images: {len(pairs)}, e.g. {example}; results will look too good"]


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
