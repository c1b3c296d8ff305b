"""Images with boxes, in files or in memory, and batches of them."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bam.data.boxes.objects import Objects
from bam.data.boxes.options import BoxOptions
from bam.data.boxes.requests import BoxDecoded, BoxRequest
from bam.data.files.stream import AugmentationSeed, StreamedBatches
from bam.data.interface import fingerprint_of, new_numbers
from bam.data.plan import BatchPlan

#: Images, float32 (3, H, W), from 0 to 1; and a dictionary for each: boxes, float32 (n, 4), xyxy in pixels; labels,
#: int64 (n,), from 1; number, int, its position in the data set.
BoxBatch = tuple[list[Tensor], list[dict[str, Any]]]


@dataclass(frozen=True)
class BoxDataset:
    """Images and the objects in them.

    Attributes:
        images: paths, or uint8 (n, H, W, 3).
        objects: objects in each image.
        classes: names of the classes, starting with label 1.
        options: how the images are read and augmented.
        sizes: (height, width) of each image as annotated, in pixels.
        image_ids: id of each image in the annotations.
        category_ids: id of each class in the annotations.
        protocol: evaluation protocol for detections.
        part: which part of the data this is, for messages.
        notes: shown to the user when a run begins.
    """

    images: list[str] | Tensor
    objects: list[Objects]
    classes: tuple[str, ...]
    options: BoxOptions
    sizes: list[tuple[int, int]]
    image_ids: list[int]
    category_ids: list[int]
    protocol: Literal["voc", "coco"]
    part: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def file_names(self) -> list[str]:
        """Path of each image relative to the folder that holds all of them; ids for images in memory."""
        if isinstance(self.images, Tensor):
            return [str(number) for number in self.image_ids]
        folder = os.path.commonpath({os.path.dirname(path) for path in self.images})
        return [os.path.relpath(path, folder).replace(os.sep, "/") for path in self.images]

    @property
    def fingerprint(self) -> str:
        """Digest of the images' names, number, order, classes and boxes; moving the folder does not change it."""
        columns = [
            torch.cat([getattr(objects, name) for objects in self.objects]) for name in ("boxes", "ignored", "areas")
        ]
        digests = [hashlib.sha256(column.numpy().tobytes()).hexdigest() for column in columns]
        counts = [str(len(objects)) for objects in self.objects]
        labels = torch.cat([objects.labels for objects in self.objects])
        return fingerprint_of(self.classes, labels, [*self.file_names, *counts, *digests])

    @property
    def image_size(self) -> tuple[int, int]:
        """The largest height and the largest width of the images, in pixels."""
        heights, widths = zip(*self.sizes, strict=True)
        return max(heights), max(widths)

    def subset(self, chosen: Tensor) -> "BoxDataset":
        """The images with the numbers `chosen`, int64 (n,), in that order."""
        numbers = chosen.tolist()
        images = self.images[chosen] if isinstance(self.images, Tensor) else [self.images[k] for k in numbers]
        return dataclasses.replace(
            self,
            images=images,
            objects=[self.objects[k] for k in numbers],
            sizes=[self.sizes[k] for k in numbers],
            image_ids=[self.image_ids[k] for k in numbers],
        )

    def renumbered(self, classes: Sequence[str]) -> "BoxDataset":
        """The same images with labels and categories numbered as in `classes`, which must include all of theirs."""
        labels = new_numbers(self.classes, classes) + 1
        objects = [dataclasses.replace(objects, labels=labels[objects.labels - 1]) for objects in self.objects]
        numbers = list(range(1, len(classes) + 1))
        return dataclasses.replace(self, objects=objects, classes=tuple(classes), category_ids=numbers)

    def joined(self, other: "BoxDataset") -> "BoxDataset":
        """These images followed by those of `other`, which has the same classes; all get new ids."""
        images: list[str] | Tensor
        if isinstance(self.images, Tensor) and isinstance(other.images, Tensor):
            images = torch.cat([self.images, other.images])
        else:
            images = [*map(str, self.images), *map(str, other.images)]
        return dataclasses.replace(
            self,
            images=images,
            objects=self.objects + other.objects,
            sizes=self.sizes + other.sizes,
            image_ids=list(range(1, len(self) + len(other) + 1)),
            notes=tuple(dict.fromkeys([*self.notes, *other.notes])),
        )

    def batches(
        self,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        augment: bool = True,
        shard: tuple[int, int] = (0, 1),
    ) -> "BoxBatches":
        """Batches of these images.

        Args:
            batch_size: images per batch, over all processes together.
            device: device of the batches.
            augment: augment training images as the options say.
            shard: (rank, number of processes); each process serves its share of every batch.
        """
        return BoxBatches(self, BatchPlan(len(self), batch_size, shard), device, augment=augment)


class BoxBatches(StreamedBatches[BoxRequest, BoxDecoded, BoxBatch]):
    """Batches of images with boxes, each a `BoxBatch`. Ignored objects are left out.

    Images whose size differs from the annotated one count as unreadable. For these and for several processes, see
    `StreamedBatches`.

    Args:
        dataset: the images.
        plan: which images go into which batch.
        device: device of the batches.
        augment: augment training images as the data set's options say.
    """

    def __init__(
        self, dataset: BoxDataset, plan: BatchPlan, device: torch.device | str = "cpu", *, augment: bool = True
    ) -> None:
        from bam.data.boxes.decoding import BoxDecoder  # needs torchvision; the data set alone does not

        options = dataset.options
        in_memory = dataset.images if isinstance(dataset.images, Tensor) else None
        if in_memory is not None and options.workers is None:
            options = dataclasses.replace(options, workers=0)  # there is nothing to decode
        names = dataset.file_names if isinstance(dataset.images, Tensor) else dataset.images
        decoder = BoxDecoder(options.augmentation, in_memory, turn=options.exif == "turn")
        super().__init__(names, decoder, options, plan, device, augment=augment)
        self.dataset = dataset

    def _request(self, numbers: list[int], seed: AugmentationSeed) -> BoxRequest:
        objects = [self.dataset.objects[number] for number in numbers]
        return BoxRequest(
            numbers,
            [self.names[number] for number in numbers],
            [self.dataset.sizes[number] for number in numbers],
            [each.boxes[~each.ignored].numpy() for each in objects],
            [each.labels[~each.ignored].numpy() for each in objects],
            seed,
        )

    def _batch(self, decoded: BoxDecoded) -> BoxBatch:
        pixels, boxes, labels = (
            values.to(self.device, non_blocking=True) for values in (decoded.pixels, decoded.boxes, decoded.labels)
        )
        flat = (pixels.float() / 255).split([3 * height * width for height, width in decoded.sizes])
        images = [values.view(3, *size) for values, size in zip(flat, decoded.sizes, strict=True)]
        parts = zip(boxes.split(decoded.counts), labels.split(decoded.counts), decoded.numbers.tolist(), strict=True)
        return images, [{"boxes": xyxy, "labels": classes, "number": number} for xyxy, classes, number in parts]
