"""Image files with their classes, and batches normalised on the device."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bam.data.augmentation import NO_AUGMENTATION, Augmentation
from bam.data.files.stream import AugmentationSeed, StreamedBatches
from bam.data.folder.decoding import FolderDecoded, FolderDecoder, FolderRequest
from bam.data.folder.options import FolderOptions
from bam.data.interface import fingerprint_of, new_numbers
from bam.data.plan import BatchPlan
from bam.pixels import normalized


@dataclass(frozen=True)
class FolderDataset:
    """Image files and their classes.

    Attributes:
        paths: paths of the images.
        targets: class numbers, int64 (n,).
        classes: names of the classes.
        options: how the images are read.
        part: which part of the folder this is, for messages.
        notes: shown to the user when a run begins.
    """

    paths: list[str]
    targets: Tensor
    classes: tuple[str, ...]
    options: FolderOptions
    part: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    @property
    def fingerprint(self) -> str:
        """Digest of the images' names, number, order and classes; moving the folder does not change it."""
        start = len(os.path.commonpath(self.paths))
        return fingerprint_of(self.classes, self.targets, [path[start:] for path in self.paths])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images served, in pixels."""
        return self.options.size, self.options.size

    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation from the options: float32 (3,) each, on the scale 0 to 255."""
        return 255 * torch.tensor(self.options.mean), 255 * torch.tensor(self.options.std)

    def subset(self, chosen: Tensor) -> "FolderDataset":
        """The images with the numbers `chosen`, int64 (n,), in that order."""
        return dataclasses.replace(
            self, paths=[self.paths[number] for number in chosen.tolist()], targets=self.targets[chosen]
        )

    def renumbered(self, classes: Sequence[str]) -> "FolderDataset":
        """The same images with classes numbered as in `classes`, which must include all of theirs."""
        targets = new_numbers(self.classes, classes)[self.targets]
        return dataclasses.replace(self, targets=targets, classes=tuple(classes))

    def joined(self, other: "FolderDataset") -> "FolderDataset":
        """These images followed by those of `other`, which has the same classes."""
        targets = torch.cat([self.targets, other.targets])
        return dataclasses.replace(self, paths=self.paths + other.paths, targets=targets, part="")

    def batches(
        self,
        batch_size: int,
        normalization: tuple[Tensor, Tensor],
        device: torch.device | str = "cpu",
        *,
        augmentation: Augmentation = NO_AUGMENTATION,
        shard: tuple[int, int] = (0, 1),
    ) -> "FolderBatches":
        """Batches of these images, see `LabelledImages.batches`.

        Raises:
            ValueError: for crop padding: training images are already cropped at random.
        """
        if augmentation.crop_padding:
            raise ValueError(
                f"crop_padding {augmentation.crop_padding}: the images of a folder are already cropped at random, by "
                "the data options scale and ratio; set crop_padding to 0"
            )
        return FolderBatches(self, BatchPlan(len(self), batch_size, shard), normalization, device, augmentation)


class FolderBatches(StreamedBatches[FolderRequest, FolderDecoded, tuple[Tensor, Tensor]]):
    """Batches of a folder of images.

    Training images are cropped at random (torchvision's RandomResizedCrop); test images are resized and cropped to
    their centre. For unreadable images and several processes, see `StreamedBatches`.

    Args:
        dataset: the images.
        plan: which images go into which batch.
        normalization: mean and standard deviation of each channel, on the scale 0 to 255.
        device: device of the batches.
        augmentation: augmentation of training images, besides the crops.
    """

    def __init__(
        self,
        dataset: FolderDataset,
        plan: BatchPlan,
        normalization: tuple[Tensor, Tensor],
        device: torch.device | str = "cpu",
        augmentation: Augmentation = NO_AUGMENTATION,
    ) -> None:
        decoder = FolderDecoder(dataset.options, augmentation, normalization[0].tolist())
        super().__init__(dataset.paths, decoder, dataset.options, plan, device)
        self.dataset = dataset
        self.mean, self.deviation = (values.to(self.device) for values in normalization)

    def _request(self, numbers: list[int], seed: AugmentationSeed) -> FolderRequest:
        return FolderRequest(numbers, [self.dataset.paths[number] for number in numbers], seed)

    def _batch(self, decoded: FolderDecoded) -> tuple[Tensor, Tensor]:
        pixels = decoded.pixels.to(self.device, non_blocking=True)
        targets = self.dataset.targets[decoded.numbers].to(self.device, non_blocking=True)
        return normalized(pixels, self.mean, self.deviation), targets
