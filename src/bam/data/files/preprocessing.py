"""Preprocessing at test time: resize, crop the centre, normalise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from bam.data.files.decoding import to_rgb


@dataclass(frozen=True)
class Preprocessing:
    """The input a network expects.

    Attributes:
        mean: mean of each channel, on the scale 0 to 1.
        std: standard deviation of each channel, on the same scale.
        image_size: height and width in pixels.
        resize: length of the shorter side before the centre crop, in pixels.
    """

    mean: Sequence[float]
    std: Sequence[float]
    image_size: tuple[int, int]
    resize: int

    @property
    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation on the scale 0 to 255: float32 (channels,) each."""
        return 255 * torch.tensor(self.mean), 255 * torch.tensor(self.std)

    def transform(self) -> v2.Compose:
        """The transform from a PIL image, or a uint8 tensor (..., C, H, W), to a float32 tensor (..., C, H, W).

        PIL images of any mode become RGB, or grey for a network of one channel.
        """
        colours: dict[int, list[v2.Transform]] = {1: [v2.Grayscale()], 3: [v2.Lambda(to_rgb, Image.Image), v2.RGB()]}
        return v2.Compose(
            [
                *colours.get(len(self.mean), []),
                *centre_crop(self.resize, self.image_size),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(self.mean, self.std),
                v2.ToPureTensor(),
            ]
        )


def centre_crop(resize: int, image_size: Sequence[int]) -> list[v2.Transform]:
    """Resize the shorter side to `resize` pixels, then crop the centre to (height, width)."""
    return [v2.Resize(resize, antialias=True), v2.CenterCrop(image_size)]
