"""The interfaces of data sets and their batches, whether images are in memory or in files."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from bam.data.augmentation import NO_AUGMENTATION, Augmentation


@dataclass
class Unreadable:
    """Images left out because they could not be read: how many, and the path of one of them."""

    count: int = 0
    example: str = ""

    def add(self, other: "Unreadable") -> None:
        """Count the images of `other` as well."""
        self.count += other.count
        self.example = self.example or other.example


#: (items, their number, title) -> the same items; may show progress under the title.
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


def untracked(items: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    """A `Track` that shows nothing."""
    return items


class BatchSource(Protocol):
    """Serves batches of images and targets on a device.

    For classification, a batch is images (N, 3, H, W), float32 in channels_last, and classes (N,), int64. For
    detection, it is a list of images (3, H, W), float32 from 0 to 1, and a list with the boxes and labels of each.

    An epoch depends on (seed, epoch) alone, not on what ran before or on torch's global generators. So a run that is
    resumed mid-epoch, or that trains another network, sees the same images in the same order and augmentation.
    """

    @property
    def steps(self) -> int:
        """Batches in a training epoch; a last, short batch is left out."""

    def train(self, seed: int, epoch: int, start: int = 0) -> Generator[tuple[Any, Any], None, None]:
        """Serve the shuffled, augmented batches of an epoch, starting with batch number `start`. No batch is empty."""

    def test(self) -> Generator[tuple[Any, Any], None, None]:
        """Serve all images in order, without augmentation."""

    def take_unreadable(self) -> Unreadable:
        """Return the images left out since the last call, and reset the count."""


class Images(Protocol):
    """A data set of images."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images served, in pixels; a representative size if they differ."""

    @property
    def fingerprint(self) -> str:
        """Digest of the images' names, number, order and classes; their pixels are not read."""

    @property
    def part(self) -> str:
        """Which part of the user's data this is, for messages; "" if the data set has its own split."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user when a run begins, e.g. on skipped files and automatic choices."""

    def renumbered(self, classes: Sequence[str]) -> Self:
        """The same images with classes numbered as in `classes`, which must include all of theirs."""

    def joined(self, other: Self) -> Self:
        """These images followed by those of `other`, which has the same classes."""

    def __len__(self) -> int:
        """Number of images."""


class LabelledImages(Images, Protocol):
    """A data set for classification: images of one size, and the class of each."""

    @property
    def targets(self) -> Tensor:
        """Class numbers, int64 (n,)."""

    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation for normalising each channel: float32 (3,) each, on the scale 0 to 255."""

    def subset(self, chosen: Tensor) -> "LabelledImages":
        """The images with the numbers `chosen`, int64 (n,), in that order."""

    def batches(
        self,
        batch_size: int,
        normalization: tuple[Tensor, Tensor],
        device: torch.device | str = "cpu",
        *,
        augmentation: Augmentation = NO_AUGMENTATION,
        shard: tuple[int, int] = (0, 1),
    ) -> BatchSource:
        """Batches of these images.

        Args:
            batch_size: images per batch, over all processes together.
            normalization: mean and standard deviation of each channel of the training set, on the scale 0 to 255.
            device: device of the batches.
            augmentation: augmentation of training images.
            shard: (rank, number of processes); each process serves its share of every batch.
        """


def new_numbers(before: Sequence[str], classes: Sequence[str]) -> Tensor:
    """The number in `classes` of each class in `before`, int64 (len(before),)."""
    return torch.tensor([classes.index(name) for name in before])


def fingerprint_of(classes: Sequence[str], targets: Tensor, names: Sequence[str] = ()) -> str:
    """Digest of a data set's classes, targets and file names."""
    content = json.dumps([list(classes), targets.tolist(), list(names)])
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:16]
