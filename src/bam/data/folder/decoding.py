"""Image files of any kind, as pixels of one size."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2

from bam.data.folder.options import FolderOptions

#: Formats in which Pillow scales integers to 16 bits.
_SIXTEEN_BITS = ("PPM", "PNG")


class Request(NamedTuple):
    """Images to decode: their numbers and paths, and the (seed, epoch) to augment them by; None to leave them."""

    numbers: list[int]
    paths: list[str]
    augmentation: tuple[int, int] | None


class Decoded(NamedTuple):
    """What came of a request: pixels (n, size, size, 3) uint8, the images' numbers (n,), (path, what is wrong) else."""

    pixels: Tensor
    numbers: Tensor
    unreadable: list[tuple[str, str]]


class Decoder(torch.utils.data.Dataset[Decoded]):
    """Requests to pixels. The augmentation of an image depends on (seed, epoch, its number) alone."""

    def __init__(self, options: FolderOptions, flip: bool) -> None:
        self.size = options.size
        crop = v2.RandomResizedCrop(options.size, tuple(options.scale), tuple(options.ratio))
        self.augment = v2.Compose([crop, v2.RandomHorizontalFlip()]) if flip else crop
        self.centre = v2.Compose([v2.Resize(options.shorter_side), v2.CenterCrop(options.size)])

    def __getitem__(self, request: Request) -> Decoded:
        """Decode and cut what is asked for; what cannot be read is left out."""
        pixels = torch.empty(len(request.paths), self.size, self.size, 3, dtype=torch.uint8)
        numbers: list[int] = []
        unreadable: list[tuple[str, str]] = []
        for number, path in zip(request.numbers, request.paths, strict=True):
            try:
                image = read_rgb(path)
            except ValueError as error:
                unreadable.append((path, f"cannot be read as an image: {error}"))
                continue
            if request.augmentation:
                with drawn_from(*request.augmentation, number):
                    cut = self.augment(image)
            else:
                cut = self.centre(image)
            pixels[len(numbers)] = torch.from_numpy(np.array(cut))
            numbers.append(number)
        return Decoded(pixels[: len(numbers)], torch.tensor(numbers, dtype=torch.int64), unreadable)


@contextlib.contextmanager
def drawn_from(seed: int, epoch: int, number: int) -> Iterator[None]:
    """What is drawn within, from torch's global generator, depends on these alone; then the generator is restored."""
    before = torch.get_rng_state()
    try:
        own_seed = np.random.SeedSequence([seed, epoch, number]).generate_state(1)
        torch.default_generator.manual_seed(int(own_seed[0]))
        yield
    finally:
        torch.set_rng_state(before)


def read_rgb(path: str) -> Image.Image:
    """The image at `path` in RGB with 8 bits a channel, as it is stored: it is not turned as EXIF may ask.

    Grey, palette, CMYK and 16-bit images are converted; transparency is dropped.

    Raises:
        ValueError: if the file is no image, damaged, or of a kind whose values have no known range; says why.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata, which change no pixel
            with open(path, "rb") as file, Image.open(file) as image:
                return to_rgb(image)
    except UnidentifiedImageError:
        raise ValueError("it is empty, or no image of a known format") from None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    except Exception as error:  # whatever a decoder makes of damaged bytes: there is no list of it
        raise ValueError(str(error) or type(error).__name__) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB with 8 bits a channel; raises ValueError if its values have no known range."""
    if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN_BITS):
        raise ValueError("its values have no known range; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        return image.convert("RGBA").convert("RGB")  # Pillow warns of the direct way where colours are transparent
    return image.convert("RGB")
