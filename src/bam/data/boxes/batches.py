"""Batches of images with boxes: decoded as they are needed, of their own sizes."""

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bam.data.boxes.decoding import BoxDecoded, BoxDecoder, BoxRequest
from bam.data.folder.stream import Augmentation, Stream
from bam.data.interface import Unreadable

if TYPE_CHECKING:
    from bam.data.boxes.dataset import BoxDataset

#: Images, float32 (3, H, W) each, from 0 to 1; and for each of them boxes, float32 (n, 4), xyxy in its pixels, labels,
#: int64 (n,), from 1, and number, int, its place in the data set.
BoxBatch = tuple[list[Tensor], list[dict[str, Any]]]


class BoxBatches:
    """Images with boxes, served as `BoxBatch`. Objects to ignore are left out: neither trained on nor served.

    What an epoch serves depends on (seed, epoch) alone, as `bam.data.BatchSource` says. Of images that cannot be read,
    and of several processes, see `bam.data.folder.stream.Stream`.

    Args:
        dataset: the images.
        batch_size: over all processes together.
        device: where batches are made.
        augment: in training, augment images as the data set's options say.
        shard: (rank, number of processes).
    """

    def __init__(
        self,
        dataset: "BoxDataset",
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        augment: bool = True,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.dataset, self.device, self.augment = dataset, torch.device(device), augment
        in_memory = dataset.images if isinstance(dataset.images, Tensor) else None
        options = dataset.options
        if in_memory is not None and options.workers is None:
            options = replace(options, workers=0)  # there is nothing to decode
        self.names = dataset.file_names if isinstance(dataset.images, Tensor) else dataset.images
        decoder = BoxDecoder(options.augmentation, in_memory)
        self.stream = Stream(self.names, decoder, self._request, options, batch_size, self.device, shard)

    @property
    def steps(self) -> int:
        """Batches in a training epoch; a last, short batch is left out."""
        return self.stream.steps

    def train(self, seed: int, epoch: int, start: int = 0) -> Generator[BoxBatch, None, None]:
        """The shuffled, augmented batches of an epoch, from batch number `start` on. None of them is empty.

        Raises:
            ValueError: for an image that cannot be read, or is not of the annotated size, unless such are skipped; then
                if there is no other.
        """
        for decoded in self.stream.train(seed, epoch, start, augment=self.augment):
            yield self._on_device(decoded)

    def test(self) -> Generator[BoxBatch, None, None]:
        """All images in order, as they are.

        Raises:
            ValueError: as `train`.
        """
        for decoded in self.stream.test():
            yield self._on_device(decoded)

    def take_unreadable(self) -> Unreadable:
        """The images that the batches served since the last call lack."""
        return self.stream.take_unreadable()

    def _request(self, numbers: list[int], augmentation: Augmentation) -> BoxRequest:
        objects = [self.dataset.objects[number] for number in numbers]
        return BoxRequest(
            numbers,
            [self.names[number] for number in numbers],
            [self.dataset.sizes[number] for number in numbers],
            [one.boxes[~one.ignored].numpy() for one in objects],
            [one.labels[~one.ignored].numpy() for one in objects],
            augmentation,
        )

    def _on_device(self, decoded: BoxDecoded) -> BoxBatch:
        pixels, boxes, labels = (
            values.to(self.device, non_blocking=True) for values in (decoded.pixels, decoded.boxes, decoded.labels)
        )
        flat = (pixels.float() / 255).split([3 * height * width for height, width in decoded.sizes])
        images = [values.view(3, *size) for values, size in zip(flat, decoded.sizes, strict=True)]
        parts = zip(boxes.split(decoded.counts), labels.split(decoded.counts), decoded.numbers.tolist(), strict=True)
        return images, [{"boxes": own, "labels": label, "number": number} for own, label, number in parts]
