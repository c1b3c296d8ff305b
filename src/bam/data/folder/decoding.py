"""Decode image files to pixels of one size."""

import contextlib
from collections.abc import Sequence
from math import ceil
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from bam.data.augmentation import Augmentation
from bam.data.files.decoding import opened, read_rgb, seeded_by, to_rgb
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
        self.size, square = options.size, (options.size, options.size)
        self.crop = None if options.WHOLE else v2.RandomResizedCrop(square, tuple(options.scale), tuple(options.ratio))
        centre = [v2.Resize(square)] if options.WHOLE else centre_crop(options.shorter_side, square)
        flip = [v2.RandomHorizontalFlip()] if augmentation.flip else []
        after = augmentation.after_cropping(mean)
        self.centre = v2.Compose([*centre, v2.PILToTensor()])
        self.augment = [*flip, *([after] if after else [])]

    def __getitem__(self, request: FolderRequest) -> FolderDecoded:
        """Decode and crop the images of a request; leave out those that cannot be read."""
        pixels = torch.empty(len(request.paths), self.size, self.size, 3, dtype=torch.uint8)
        numbers: list[int] = []
        unreadable: list[tuple[str, str]] = []
        for number, path in zip(request.numbers, request.paths, strict=True):
            with seeded_by(*request.seed, number) if request.seed else contextlib.nullcontext():
                try:
                    cropped = self._random_part(path) if request.seed else self.centre(read_rgb(path))
                except ValueError as error:
                    unreadable.append((path, f"cannot be read as an image: {error}"))
                    continue
                for transform in self.augment if request.seed else []:
                    cropped = transform(cropped)
            pixels[len(numbers)] = cropped.permute(1, 2, 0)
            numbers.append(number)
        return FolderDecoded(pixels[: len(numbers)], torch.tensor(numbers, dtype=torch.int64), unreadable)

    def _random_part(self, path: str) -> Tensor:
        """A random part of the image at `path`, uint8 (3, size, size); all of it if the options ask for whole images.

        A JPEG whose part has about twice the pixels needed on both sides, or more, is decoded at 1/2, 1/4 or 1/8 of its
        size, which is several times faster. torch resizes three times as fast as Pillow.
        """
        with opened(path) as image:
            width, height = image.size
            top, left, rows, columns = 0, 0, height, width
            if self.crop:
                top, left, rows, columns = itemgetter("top", "left", "height", "width")(self.crop.make_params([image]))
            drafted = image.draft(None, (ceil(width * self.size / columns), ceil(height * self.size / rows)))
            across, down = (drafted[1][2] / width, drafted[1][3] / height) if drafted else (1.0, 1.0)
            left, right = round(left * across), round((left + columns) * across)
            top, bottom = round(top * down), round((top + rows) * down)
            part = to_rgb(image).crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        return functional.resize(torch.from_numpy(np.array(part)).permute(2, 0, 1), [self.size, self.size])
