"""Compare the decoding of training images with torchvision's ImageFolder and the same transforms.

    python benchmarks/decoding.py --threads 1
    python benchmarks/decoding.py --threads 1 --size 128

Both read the same generated JPEGs of three sizes in this process, crop them at random, resize the crops, mirror half of
them, and serve normalised batches. bam decodes a JPEG at 1/2, 1/4 or 1/8 of its size if the crop keeps enough pixels.
"Pillow alone" only decodes the files at their full size: where all pixels are needed, nothing that decodes with it can
be faster.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from loop import write_jpegs
from PIL import Image
from timing import flags, interleave, report
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from bam.data import load
from bam.data.augmentation import Augmentation
from bam.pixels import IMAGENET_MEAN, IMAGENET_STD

SIDES = ((500, 375), (1600, 1200), (4000, 3000))


def main() -> None:
    """Time all three on JPEGs of each size."""
    args = flags(__doc__, size=224, files=32)
    args.dtype = "fp32"  # of the pixels; nothing else is computed
    for size in SIDES:
        with tempfile.TemporaryDirectory() as folder:
            write_jpegs(Path(folder), args.files, size)
            alone = partial(decode, sorted(Path(folder).glob("train/*/*.jpg")))
            paths = {"ImageFolder": image_folder(folder, args), "bam": ours(folder, args), "Pillow alone": alone}
            times = interleave(paths, args.rounds, warmup=1)
        shape = f"{args.files} JPEGs of {size[0]} x {size[1]} to {args.size}"
        report("decoding", args, "training images", shape, "decoding", times, "ImageFolder")


def image_folder(folder: str, args: argparse.Namespace) -> Callable[[], object]:
    """An epoch as torchvision's documentation has it."""
    crop = [v2.RandomResizedCrop(args.size), v2.RandomHorizontalFlip()]
    scale = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    images = ImageFolder(f"{folder}/train", v2.Compose(crop + scale))
    return lambda: list(DataLoader(images, batch_size=args.files, shuffle=True))


def ours(folder: str, args: argparse.Namespace) -> Callable[[], object]:
    """An epoch of bam."""
    train, _ = load(f"folder:{folder}", size=args.size, workers=0)
    batches = train.batches(args.files, train.normalization(), augmentation=Augmentation(flip=True))
    epochs = itertools.count()
    return lambda: list(batches.train(0, next(epochs)))


def decode(paths: list[Path]) -> None:
    """Decode all files at their full size."""
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB")


if __name__ == "__main__":
    main()
