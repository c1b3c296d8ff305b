"""Labelled images of one size, held in memory; batches are cropped, flipped and normalised on the device."""

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bam.data.augmentation import NO_AUGMENTATION, Augmentation
from bam.data.files.decoding import seeded_by
from bam.data.interface import Unreadable, fingerprint_of, new_numbers
from bam.data.plan import BatchPlan, epoch_generator
from bam.pixels import normalized


@dataclass(frozen=True)
class Dataset:
    """Images in memory, and their classes.

    Attributes:
        images: uint8 (n, H, W, 3).
        targets: class numbers, int64 (n,).
        classes: names of the classes.
        boxes: the object in each image, int64 (n, 4), xyxy in pixels; None where unknown.
        part: which part of the data this is, for messages.
        notes: shown to the user when a run begins.
    """

    images: Tensor
    targets: Tensor
    classes: tuple[str, ...]
    boxes: Tensor | None = None
    part: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """Digest of the number, order and classes of the images."""
        return fingerprint_of(self.classes, self.targets)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[1], self.images.shape[2]

    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over all pixels: float32 (3,) each, on the scale 0 to 255."""
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

    def renumbered(self, classes: Sequence[str]) -> "Dataset":
        """The same images with classes numbered as in `classes`, which must include all of theirs."""
        targets = new_numbers(self.classes, classes)[self.targets]
        return dataclasses.replace(self, targets=targets, classes=tuple(classes))

    def joined(self, other: "Dataset") -> "Dataset":
        """These images followed by those of `other`, which has the same classes; boxes are dropped."""
        images, targets = torch.cat([self.images, other.images]), torch.cat([self.targets, other.targets])
        return Dataset(images, targets, self.classes)

    def batches(
        self,
        batch_size: int,
        normalization: tuple[Tensor, Tensor],
        device: torch.device | str = "cpu",
        *,
        augmentation: Augmentation = NO_AUGMENTATION,
        shard: tuple[int, int] = (0, 1),
    ) -> "Batches":
        """Batches of these images, see `LabelledImages.batches`."""
        plan = BatchPlan(len(self), batch_size, shard)
        return Batches(self, plan, normalization, device, augmentation)


class Batches:
    """A `bam.data.BatchSource` that holds a whole data set on the device.

    Args:
        dataset: the images.
        plan: which images go into which batch.
        normalization: mean and standard deviation of each channel of the training set, on the scale 0 to 255.
        device: device of the images and batches.
        augmentation: augmentation of training images.

    Raises:
        ValueError: for padding as wide as the images: a crop might then show none of the image.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: BatchPlan,
        normalization: tuple[Tensor, Tensor],
        device: torch.device | str = "cpu",
        augmentation: Augmentation = NO_AUGMENTATION,
    ) -> None:
        self.plan, self.device = plan, torch.device(device)
        self.padding, self.flip = augmentation.crop_padding, augmentation.flip
        mean, deviation = normalization
        self.after_cropping = augmentation.after_cropping(mean.tolist())
        images = dataset.images
        if padding := self.padding:
            if padding >= min(dataset.image_size):
                sides = " x ".join(map(str, dataset.image_size))
                raise ValueError(
                    f"crop_padding must be smaller than the images, which have {sides} pixels; got {padding}"
                )
            height, width = (side + 2 * padding for side in images.shape[1:3])
            padded = mean.round().to(torch.uint8).expand(len(images), height, width, 3).contiguous()
            padded[:, padding:-padding, padding:-padding] = images
            images = padded
        self.height, self.width = dataset.image_size
        self.images = images.to(self.device)
        self.targets = dataset.targets.to(self.device)
        self.mean, self.deviation = mean.to(self.device), deviation.to(self.device)

    @property
    def steps(self) -> int:
        """Batches in a training epoch; a last, short batch is left out."""
        return self.plan.steps

    def train(self, seed: int, epoch: int, start: int = 0) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Serve the shuffled, augmented batches of an epoch, starting with batch number `start`."""
        generator, count = epoch_generator(seed, epoch), self.plan.num_images
        order = torch.randperm(count, generator=generator)
        offsets = torch.randint(2 * self.padding + 1, (2, count), generator=generator)
        mirrored = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        order, offsets, mirrored = (values.to(self.device) for values in (order, offsets, mirrored))
        for step in range(start, self.steps):
            share = self.plan.training_share(step)
            chosen = order[share]
            top, left = offsets[:, share]
            pixels = self._crop(chosen, top, left, mirrored[share])
            if self.after_cropping is not None:
                for pixel, number in zip(pixels, chosen.tolist(), strict=True):
                    with seeded_by(seed, epoch, number):
                        pixel.copy_(self.after_cropping(pixel.permute(2, 0, 1)).permute(1, 2, 0))
            yield normalized(pixels, self.mean, self.deviation), self.targets[chosen]

    def test(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Serve all images in order, without augmentation."""
        for chosen in self.plan.test_shares(self.device):
            centre = torch.full_like(chosen, self.padding)
            pixels = self._crop(chosen, centre, centre, torch.zeros_like(chosen, dtype=torch.bool))
            yield normalized(pixels, self.mean, self.deviation), self.targets[chosen]

    def take_unreadable(self) -> Unreadable:
        """Always empty: the images are in memory."""
        return Unreadable()

    def _crop(self, chosen: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        """Crop and mirror images; returns pixels uint8 (n, H, W, 3)."""
        if self.padding or self.flip:
            rows = top[:, None] + torch.arange(self.height, device=self.device)
            columns = torch.arange(self.width, device=self.device).expand(len(chosen), -1)
            columns = left[:, None] + torch.where(mirrored[:, None], self.width - 1 - columns, columns)
            return self.images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self.images[chosen]
