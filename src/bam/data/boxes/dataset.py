"""Images, in files or in memory, and the objects in each of them."""

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from bam.data.boxes.objects import Objects
from bam.data.boxes.options import BoxOptions
from bam.data.interface import fingerprint_of

if TYPE_CHECKING:
    from bam.data.boxes.batches import BoxBatches


@dataclass(frozen=True)
class BoxDataset:
    """Images with boxes.

    images: paths, or uint8 (n, H, W, 3). objects, sizes (height and width in pixels, as annotated) and image_ids: one
    each an image. classes: their names, that of label 1 first; category_ids: their ids in the annotations. protocol: by
    whose rules detections are scored.
    """

    images: list[str] | Tensor
    objects: list[Objects]
    classes: tuple[str, ...]
    options: BoxOptions
    sizes: list[tuple[int, int]]
    image_ids: list[int]
    category_ids: list[int]
    protocol: Literal["voc", "coco"]

    def __len__(self) -> int:
        """How many images."""
        return len(self.images)

    @property
    def file_names(self) -> list[str]:
        """The name of each image's file, below the folder that holds all of them; of images in memory, their ids."""
        if isinstance(self.images, Tensor):
            return [str(number) for number in self.image_ids]
        folder = os.path.commonpath({os.path.dirname(path) for path in self.images})
        return [os.path.relpath(path, folder).replace(os.sep, "/") for path in self.images]

    @property
    def fingerprint(self) -> str:
        """Differs where names, number, order, classes or boxes of the images do; not with the place of the folder."""
        columns = [torch.cat([getattr(one, name) for one in self.objects]) for name in ("boxes", "ignored", "areas")]
        digests = [hashlib.sha256(column.numpy().tobytes()).hexdigest() for column in columns]
        counts = [str(len(one)) for one in self.objects]
        labels = torch.cat([one.labels for one in self.objects])
        return fingerprint_of(self.classes, labels, [*self.file_names, *counts, *digests])

    @property
    def image_size(self) -> tuple[int, int]:
        """The greatest height and the greatest width of the images."""
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

    def batches(
        self,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        augment: bool = True,
        shard: tuple[int, int] = (0, 1),
    ) -> "BoxBatches":
        """Its images as batches.

        Args:
            batch_size: over all processes together.
            device: where batches are made.
            augment: in training, augment images as the options say.
            shard: (rank, number of processes); each process is served its part of every batch.
        """
        from bam.data.boxes.batches import BoxBatches  # it needs torchvision, which looking at data does not

        return BoxBatches(self, batch_size, device, augment=augment, shard=shard)
