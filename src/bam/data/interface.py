"""What training asks of data, whether they lie in memory or in files."""

import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass
class Unreadable:
    """Images that could not be read and were left out: how many, and the path of one of them."""

    count: int = 0
    example: str = ""

    def add(self, other: "Unreadable") -> None:
        """Count those of `other`, too."""
        self.count += other.count
        self.example = self.example or other.example


class BatchSource(Protocol):
    """Serves batches of images and targets on a device.

    Of classification: image (N, 3, H, W) float32 in channels_last, target (N,) int64. Of detection: a list of images
    (3, H, W) float32 from 0 to 1, and a list of their boxes and labels.

    What an epoch serves depends on (seed, epoch) alone, not on what ran before nor on torch's global generators: a run
    resumed in mid-epoch, or with another network, sees the same images in the same order with the same augmentation.
    """

    @property
    def steps(self) -> int:
        """Batches in a training epoch; a last, short batch is left out."""

    def train(self, seed: int, epoch: int, start: int = 0) -> Generator[tuple[Any, Any], None, None]:
        """The shuffled, augmented batches of an epoch, from batch number `start` on. None of them is empty."""

    def test(self) -> Generator[tuple[Any, Any], None, None]:
        """All images in order, as they are."""

    def take_unreadable(self) -> Unreadable:
        """The images that the batches served since the last call lack."""


class Images(Protocol):
    """A data set of images."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that are served; where these differ, some that stand for all."""

    @property
    def fingerprint(self) -> str:
        """Differs where names, number, order or classes of the images do; their pixels are not looked at."""

    def __len__(self) -> int:
        """How many images."""


class LabelledImages(Images, Protocol):
    """A data set for classification: images of one size, and their classes."""

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation to normalise each channel by, on the scale 0 to 255: float32 (3,) each."""

    def subset(self, chosen: Tensor) -> "LabelledImages":
        """The images with the numbers `chosen`, int64 (n,), in that order."""

    def batches(
        self,
        batch_size: int,
        statistics: tuple[Tensor, Tensor],
        device: torch.device | str = "cpu",
        *,
        crop_padding: int = 0,
        flip: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> BatchSource:
        """Its images as batches.

        Args:
            batch_size: over all processes together.
            statistics: mean and deviation of each channel (0 to 255), of the training set.
            device: where batches are made.
            crop_padding: in training, pad by so many pixels of the mean colour and crop at random.
            flip: in training, mirror every other image at random.
            shard: (rank, number of processes); each process is served its part of every batch.
        """


def fingerprint_of(classes: Sequence[str], targets: Tensor, names: Sequence[str] = ()) -> str:
    """The digest of what a data set consists of."""
    content = json.dumps([list(classes), targets.tolist(), list(names)])
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The generator of an epoch's order."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def normalized(pixels: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """uint8 images (N, H, W, 3) as float32 (N, 3, H, W) in channels_last, normalised."""
    return ((pixels - mean) / deviation).permute(0, 3, 1, 2)  # the NHWC storage is channels_last
