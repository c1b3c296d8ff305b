"""A labelled set of images of one size, whole in memory."""

from dataclasses import dataclass

import torch
from torch import Tensor


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

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over all pixels, on the scale 0 to 255: float32 (3,) each."""
        values = torch.arange(256, dtype=torch.float64)
        means, deviations = [], []
        for channel in self.images.unbind(3):
            share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
            means.append((share * values).sum())
            deviations.append((share * (values - means[-1]) ** 2).sum().sqrt())
        return torch.stack(means).float(), torch.stack(deviations).float()
