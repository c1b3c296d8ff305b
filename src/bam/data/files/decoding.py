"""Decode image files of any format to RGB, and seed the augmentation of each image."""

import contextlib
import os
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

#: Formats whose integers Pillow scales to 16 bits.
_SIXTEEN_BITS = ("PPM", "PNG")


@contextlib.contextmanager
def seeded_by(seed: int, epoch: int, number: int) -> Iterator[None]:
    """Seed torch's global generator by (seed, epoch, image number) within the block; restore it afterwards."""
    before = torch.get_rng_state()
    try:
        image_seed = np.random.SeedSequence([seed, epoch, number]).generate_state(1)
        torch.default_generator.manual_seed(int(image_seed[0]))
        yield
    finally:
        torch.set_rng_state(before)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """The image at `path`, not decoded yet; errors within the block become ValueErrors about the file.

    Raises:
        ValueError: if the file is not an image, is damaged, or has values of unknown range; the message says why.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is a folder, pipe or device, not a file")  # opening a pipe would block forever
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata, which does not change pixels
            with open(path, "rb") as file, Image.open(file) as image:
                yield image
    except (UnidentifiedImageError, ImportError):  # Ultralytics makes Image.open ask for a decoder
        raise ValueError("it is empty, or not an image of a known format") from None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    except Exception as error:  # decoders raise many types on damaged bytes, and document none
        raise ValueError(str(error) or type(error).__name__) from None


def read_rgb(path: str, *, turn: bool = False) -> Image.Image:
    """Read the image at `path` as RGB with 8 bits per channel. EXIF orientation is applied only with `turn`.

    Grey, palette, CMYK and 16-bit images are converted; transparency is dropped.

    Raises:
        ValueError: as `opened`.
    """
    with opened(path) as image:
        return to_rgb(ImageOps.exif_transpose(image) if turn else image)


def is_turned(path: str) -> bool:
    """Whether EXIF turns the image at `path` for display; False if it cannot be read."""
    try:
        with opened(path) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
    except ValueError:  # `read_rgb` reports the file
        return False


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB with 8 bits per channel.

    Raises:
        ValueError: if its values have no known range.
    """
    if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN_BITS):
        raise ValueError("its values have no known range; save it with 8 or 16 bits per channel")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        return image.convert("RGBA").convert("RGB")  # converting transparent colours directly warns
    return image.convert("RGB")
