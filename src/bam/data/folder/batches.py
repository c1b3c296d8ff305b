"""Batches of image files: decoded as they are needed, normalised on the device."""

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bam.data.folder.decoding import Decoded, Decoder, Request
from bam.data.folder.workers import decode, default_workers
from bam.data.interface import Unreadable, epoch_generator, normalized

if TYPE_CHECKING:
    from bam.data.folder.dataset import FolderDataset


class FolderBatches:
    """A folder of images, served as `bam.data.BatchSource` says.

    Training images are cropped at random (torchvision's RandomResizedCrop), test images are scaled and their centre
    cut out. Batches do not depend on the number of workers. Of several processes, each decodes its share alone.

    With unreadable="skip", an image that cannot be read is left out of its batch. If none of a process's part of a
    training batch can be read, the next readable image of the epoch's order stands in: no process trains on nothing,
    and none waits for another that has nothing to train on.

    Args:
        dataset: the images.
        batch_size: over all processes together.
        statistics: mean and deviation of each channel (0 to 255).
        device: where batches are normalised.
        flip: in training, mirror every other image at random.
        shard: (rank, number of processes).
    """

    def __init__(
        self,
        dataset: "FolderDataset",
        batch_size: int,
        statistics: tuple[Tensor, Tensor],
        device: torch.device | str = "cpu",
        *,
        flip: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.dataset, self.batch_size, self.shard = dataset, batch_size, shard
        self.device = torch.device(device)
        self.mean, self.deviation = (values.to(self.device) for values in statistics)
        self.decoder = Decoder(dataset.options, flip)
        self.unreadable = Unreadable()
        workers = dataset.options.workers
        if workers is None:  # on a CPU they would take from the network the cores that it computes on
            workers = 0 if self.device.type == "cpu" else default_workers(len(dataset) // shard[1], shard[1])
        self.num_workers = workers

    @property
    def steps(self) -> int:
        """Batches in a training epoch; a last, short batch is left out."""
        return len(self.dataset) // self.batch_size

    def train(self, seed: int, epoch: int, start: int = 0) -> Generator[tuple[Tensor, Tensor], None, None]:
        """The shuffled, augmented batches of an epoch, from batch number `start` on.

        Raises:
            ValueError: for an image that cannot be read, unless such are skipped; then if there is no other.
        """
        order = torch.randperm(len(self.dataset), generator=epoch_generator(seed, epoch))
        rank, processes = self.shard
        steps = range(start, self.steps)
        parts = (order[step * self.batch_size + rank : (step + 1) * self.batch_size : processes] for step in steps)
        for step, decoded in zip(steps, self._decode(parts, (seed, epoch)), strict=True):
            if not len(decoded.numbers):
                decoded = self._stand_in(order.roll(-(step + 1) * self.batch_size), (seed, epoch))
            yield self._on_device(decoded)

    def test(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """All images in order, as they are.

        Raises:
            ValueError: for an image that cannot be read, unless such are skipped; then if there is no other.
        """
        rank, processes = self.shard
        mine = torch.arange(rank, len(self.dataset), processes)
        served = 0
        for decoded in self._decode(mine.split(max(1, self.batch_size // processes)), None):
            if len(decoded.numbers):
                yield self._on_device(decoded)
            served += len(decoded.numbers)
        if not served:
            raise ValueError(_nothing_readable([self.dataset.paths[number] for number in mine.tolist()]))

    def take_unreadable(self) -> Unreadable:
        """The images that the batches served since the last call lack."""
        taken, self.unreadable = self.unreadable, Unreadable()
        return taken

    def _decode(self, parts: Iterable[Tensor], augmentation: tuple[int, int] | None) -> Generator[Decoded, None, None]:
        requests = (self._request(part, augmentation) for part in parts)
        for decoded in decode(requests, self.decoder, self.num_workers, self.device.type == "cuda"):
            for path, reason in decoded.unreadable:
                if self.dataset.options.unreadable == "stop":
                    raise ValueError(
                        f"{path} cannot be read as an image: {reason}. Replace or remove it, or leave such images out: "
                        """--data-options '{"unreadable": "skip"}'"""
                    )
                self.unreadable.add(Unreadable(1, path))
            yield decoded

    def _request(self, part: Tensor, augmentation: tuple[int, int] | None) -> Request:
        numbers = part.tolist()
        return Request(numbers, [self.dataset.paths[number] for number in numbers], augmentation)

    def _stand_in(self, order: Tensor, augmentation: tuple[int, int]) -> Decoded:
        """The first image in `order` that can be read."""
        for number in order.split(1):
            decoded = self.decoder[self._request(number, augmentation)]
            if len(decoded.numbers):
                return decoded
        raise ValueError(_nothing_readable(self.dataset.paths))

    def _on_device(self, decoded: Decoded) -> tuple[Tensor, Tensor]:
        pixels = decoded.pixels.to(self.device, non_blocking=True)
        targets = self.dataset.targets[decoded.numbers].to(self.device, non_blocking=True)
        return normalized(pixels, self.mean, self.deviation), targets


def _nothing_readable(paths: list[str]) -> str:
    return f"none of the {len(paths)} images can be read, e.g. {paths[0]}"
