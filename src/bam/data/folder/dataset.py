"""Images in files, and their classes."""

import dataclasses
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from bam.data.folder.batches import FolderBatches
from bam.data.folder.options import FolderOptions
from bam.data.interface import fingerprint_of


@dataclass(frozen=True)
class FolderDataset:
    """Paths of images, and the classes of these: targets int64 (n,)."""

    paths: list[str]
    targets: Tensor
    classes: tuple[str, ...]
    options: FolderOptions

    def __len__(self) -> int:
        """How many images."""
        return len(self.paths)

    @property
    def fingerprint(self) -> str:
        """Differs where names, number, order or classes of the images do; not with the place of the folder."""
        start = len(os.path.commonpath(self.paths))
        return fingerprint_of(self.classes, self.targets, [path[start:] for path in self.paths])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images as they are served."""
        return self.options.size, self.options.size

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the options, on the scale 0 to 255: float32 (3,) each."""
        return 255 * torch.tensor(self.options.mean), 255 * torch.tensor(self.options.std)

    def subset(self, chosen: Tensor) -> "FolderDataset":
        """The images with the numbers `chosen`, int64 (n,), in that order."""
        return dataclasses.replace(
            self, paths=[self.paths[number] for number in chosen.tolist()], targets=self.targets[chosen]
        )

    def batches(
        self,
        batch_size: int,
        statistics: tuple[Tensor, Tensor],
        device: torch.device | str = "cpu",
        *,
        crop_padding: int = 0,
        flip: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> FolderBatches:
        """Its images as batches, see `LabelledImages.batches`.

        Raises:
            ValueError: for a `crop_padding`: training images are cropped at random already.
        """
        if crop_padding:
            raise ValueError(
                f"crop_padding {crop_padding}: images of a folder are cropped at random already, by the data options "
                f"scale and ratio; set crop_padding to 0"
            )
        return FolderBatches(self, batch_size, statistics, device, flip=flip, shard=shard)
