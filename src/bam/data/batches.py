"""Batches cut, flipped and normalised on the device from images that stay uint8."""

from collections.abc import Generator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bam.data.interface import Unreadable, epoch_generator, normalized

if TYPE_CHECKING:
    from bam.data.dataset import Dataset


class Batches:
    """A data set whole on a device, served as `bam.data.BatchSource` says.

    Args:
        dataset: the images.
        batch_size: over all processes together.
        statistics: mean and deviation of each channel (0 to 255), of the training set.
        device: where images live and batches are made.
        crop_padding: in training, pad by so many pixels of the mean colour and crop at random.
        flip: in training, mirror every other image at random.
        shard: (rank, number of processes); each process is served its part of every batch.
    """

    def __init__(
        self,
        dataset: "Dataset",
        batch_size: int,
        statistics: tuple[Tensor, Tensor],
        device: torch.device | str = "cpu",
        *,
        crop_padding: int = 0,
        flip: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.size, self.batch_size, self.device, self.shard = len(dataset), batch_size, torch.device(device), shard
        self.padding, self.flip = crop_padding, flip
        mean, deviation = statistics
        images = dataset.images
        if crop_padding:
            height, width = (side + 2 * crop_padding for side in images.shape[1:3])
            padded = mean.round().to(torch.uint8).expand(len(images), height, width, 3).contiguous()
            padded[:, crop_padding:-crop_padding, crop_padding:-crop_padding] = images
            images = padded
        self.height, self.width = dataset.image_size
        self.images = images.to(self.device)
        self.targets = dataset.targets.to(self.device)
        self.mean, self.deviation = mean.to(self.device), deviation.to(self.device)

    @property
    def steps(self) -> int:
        """Batches in a training epoch; a last, short batch is left out."""
        return self.size // self.batch_size

    def train(self, seed: int, epoch: int, start: int = 0) -> Generator[tuple[Tensor, Tensor], None, None]:
        """The shuffled, augmented batches of an epoch, from batch number `start` on."""
        random = epoch_generator(seed, epoch)
        order = torch.randperm(self.size, generator=random)
        offsets = torch.randint(2 * self.padding + 1, (2, self.size), generator=random)
        mirrored = torch.rand(self.size, generator=random) < (0.5 if self.flip else 0.0)
        order, offsets, mirrored = (t.to(self.device) for t in (order, offsets, mirrored))
        rank, processes = self.shard
        for step in range(start, self.steps):
            part = slice(step * self.batch_size + rank, (step + 1) * self.batch_size, processes)
            chosen = order[part]
            top, left = offsets[:, part]
            yield self._cut(chosen, top, left, mirrored[part]), self.targets[chosen]

    def test(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """All images in order, as they are."""
        rank, processes = self.shard
        mine = torch.arange(rank, self.size, processes, device=self.device)
        for chosen in mine.split(max(1, self.batch_size // processes)):
            centre = torch.full_like(chosen, self.padding)
            yield self._cut(chosen, centre, centre, torch.zeros_like(chosen, dtype=torch.bool)), self.targets[chosen]

    def take_unreadable(self) -> Unreadable:
        """None: the images are in memory."""
        return Unreadable()

    def _cut(self, chosen: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        if self.padding or self.flip:
            rows = top[:, None] + torch.arange(self.height, device=self.device)
            columns = torch.arange(self.width, device=self.device).expand(len(chosen), -1)
            columns = left[:, None] + torch.where(mirrored[:, None], self.width - 1 - columns, columns)
            pixels = self.images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        else:
            pixels = self.images[chosen]
        return normalized(pixels, self.mean, self.deviation)
