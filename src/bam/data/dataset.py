"""A labelled set of images of one size, whole in memory."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from bam.data.batches import Batches
from bam.data.interface import fingerprint_of


@dataclass(frozen=True)
class Dataset:
    """Images as they came, and their classes.

    images: uint8 (n, H, W, 3). targets: int64 (n,). boxes: the object in each image, int64 (n, 4), xyxy in pixels.
    """

    images: Tensor
    targets: Tensor
    classes: tuple[str, ...]
    boxes: Tensor | None = None

    def __len__(self) -> int:
        """How many images."""
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """Differs where number, order or classes of the images do."""
        return fingerprint_of(self.classes, self.targets)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[1], self.images.shape[2]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over all pixels, on the scale 0 to 255: float32 (3,) each."""
        values = torch.arange(256, dtype=torch.float64)
        means, deviations = [], []
        for channel in self.images.unbind(3):
            share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
            means.append((share * values).sum())
            deviations.append((share * (values - means[-1]) ** 2).sum().sqrt())
        return torch.stack(means).float(), torch.stack(deviations).float()

    def subset(self, chosen: Tensor) -> "Dataset":
        """The images with the numbers `chosen`, int64 (n,), in that order."""
        boxes = None if self.boxes is None else self.boxes[chosen]
        return dataclasses.replace(self, images=self.images[chosen], targets=self.targets[chosen], boxes=boxes)

    def batches(
        self,
        batch_size: int,
        statistics: tuple[Tensor, Tensor],
        device: torch.device | str = "cpu",
        *,
        crop_padding: int = 0,
        flip: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> Batches:
        """Its images as batches, see `LabelledImages.batches`."""
        return Batches(self, batch_size, statistics, device, crop_padding=crop_padding, flip=flip, shard=shard)
