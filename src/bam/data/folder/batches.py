"""Batches of image files: decoded as they are needed, normalised on the device."""

from collections.abc import Generator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bam.data.folder.decoding import Decoded, Decoder, Request
from bam.data.folder.stream import Augmentation, Stream
from bam.data.interface import Unreadable, normalized

if TYPE_CHECKING:
    from bam.data.folder.dataset import FolderDataset


class FolderBatches:
    """A folder of images, served as `bam.data.BatchSource` says.

    Training images are cropped at random (torchvision's RandomResizedCrop), test images are scaled and their centre
    cut out. Of images that cannot be read, and of several processes, see `Stream`.

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
        self.dataset, self.device = dataset, torch.device(device)
        self.mean, self.deviation = (values.to(self.device) for values in statistics)
        decoder = Decoder(dataset.options, flip)
        self.stream = Stream(dataset.paths, decoder, self._request, dataset.options, batch_size, self.device, shard)

    @property
    def steps(self) -> int:
        """Batches in a training epoch; a last, short batch is left out."""
        return self.stream.steps

    def train(self, seed: int, epoch: int, start: int = 0) -> Generator[tuple[Tensor, Tensor], None, None]:
        """The shuffled, augmented batches of an epoch, from batch number `start` on.

        Raises:
            ValueError: for an image that cannot be read, unless such are skipped; then if there is no other.
        """
        for decoded in self.stream.train(seed, epoch, start):
            yield self._on_device(decoded)

    def test(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """All images in order, as they are.

        Raises:
            ValueError: for an image that cannot be read, unless such are skipped; then if there is no other.
        """
        for decoded in self.stream.test():
            yield self._on_device(decoded)

    def take_unreadable(self) -> Unreadable:
        """The images that the batches served since the last call lack."""
        return self.stream.take_unreadable()

    def _request(self, numbers: list[int], augmentation: Augmentation) -> Request:
        return Request(numbers, [self.dataset.paths[number] for number in numbers], augmentation)

    def _on_device(self, decoded: Decoded) -> tuple[Tensor, Tensor]:
        pixels = decoded.pixels.to(self.device, non_blocking=True)
        targets = self.dataset.targets[decoded.numbers].to(self.device, non_blocking=True)
        return normalized(pixels, self.mean, self.deviation), targets
