"""Decode image files to pixels of one size."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from bam.data.augmentation import Augmentation
from bam.data.files.decoding import read_rgb, seeded_by
from bam.data.files.preprocessing import centre_crop
from bam.data.files.stream import AugmentationSeed
from bam.data.folder.options import FolderOptions


class FolderRequest(NamedTuple):
    """Images to decode: their numbers, paths and augmentation seed."""

    numbers: list[int]
    paths: list[str]
    seed: AugmentationSeed


class FolderDecoded(NamedTuple):
    """Decoded images.

    Attributes:
        pixels: uint8 (n, size, size, 3).
        numbers: numbers of these images in the data set, int64 (n,).
        unreadable: (path, problem) of each other image of the request.
    """

    pixels: Tensor
    numbers: Tensor
    unreadable: list[tuple[str, str]]


class FolderDecoder(torch.utils.data.Dataset[FolderDecoded]):
    """Decodes requests. The augmentation of an image depends on (seed, epoch, image number) alone."""

    def __init__(self, options: FolderOptions, augmentation: Augmentation, mean: Sequence[float]) -> None:
        self.size = options.size
        crop: v2.Transform = v2.RandomResizedCrop(options.size, tuple(options.scale), tuple(options.ratio))
        centre = v2.Compose(centre_crop(options.shorter_side, (options.size, options.size)))
        if options.WHOLE:
            crop = centre = v2.Resize((options.size, options.size))
        self.augment = v2.Compose([crop, v2.RandomHorizontalFlip()]) if augmentation.flip else crop
        self.after_cropping = augmentation.after_cropping(mean)
        self.centre = centre

    def __getitem__(self, request: FolderRequest) -> FolderDecoded:
        """Decode and crop the images of a request; leave out those that cannot be read."""
        pixels = torch.empty(len(request.paths), self.size, self.size, 3, dtype=torch.uint8)
        numbers: list[int] = []
        unreadable: list[tuple[str, str]] = []
        for number, path in zip(request.numbers, request.paths, strict=True):
            try:
                image = read_rgb(path)
            except ValueError as error:
                unreadable.append((path, f"cannot be read as an image: {error}"))
                continue
            pixels[len(numbers)] = self._cropped(image, request.seed, number)
            numbers.append(number)
        return FolderDecoded(pixels[: len(numbers)], torch.tensor(numbers, dtype=torch.int64), unreadable)

    def _cropped(self, image: Image.Image, seed: AugmentationSeed, number: int) -> Tensor:
        """Pixels (size, size, 3) of the image with this number, augmented if there is a seed."""
        if not seed:
            return torch.from_numpy(np.array(self.centre(image)))
        with seeded_by(*seed, number):
            cropped = torch.from_numpy(np.array(self.augment(image)))
            if self.after_cropping is None:
                return cropped
            return self.after_cropping(cropped.permute(2, 0, 1)).permute(1, 2, 0)
