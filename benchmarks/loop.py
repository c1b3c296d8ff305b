"""Measure what data and bookkeeping add to a training step, and what limits training from files.

    python benchmarks/loop.py
    python benchmarks/loop.py --device cuda --compile --files 4096

In memory: steps of the training loop on random images of CIFAR-100's size (crops, flips), compared with bare steps on
one batch. From files: worker processes decode generated JPEGs of 500 x 375 pixels to 224 x 224. The script times
decoding alone, the network's steps alone, and both together, and names the limiting part.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from timing import flags, interleave, report
from torch import Tensor

from bam import recipes
from bam.data import BatchSource, Dataset, load
from bam.data.augmentation import Augmentation
from bam.models import build
from bam.tasks import task_of
from bam.training.display import Display
from bam.training.loop import Progress, Trainer
from bam.training.optimization import optimizer as make_optimizer


class Training:
    """A network with its optimiser, for timing the training loop and bare steps in turn."""

    def __init__(self, recipe: recipes.Recipe, num_classes: int, args: argparse.Namespace) -> None:
        precision = {"fp32": "no"}.get(args.dtype, args.dtype)
        self.accelerator = Accelerator(mixed_precision=precision, cpu=args.device == "cpu")
        self.task = task_of(recipe)
        model = build(recipe.model, num_classes).to(self.accelerator.device).to(memory_format=torch.channels_last)
        self.model, self.optimizer = self.accelerator.prepare(model, make_optimizer(model, recipe))
        if args.compile:
            self.model = torch.compile(self.model, mode="reduce-overhead" if args.device == "cuda" else "default")

    def bare(self, image: Tensor, target: Tensor, steps: int) -> Callable[[], None]:
        """Run `steps` steps on one batch."""

        def run() -> None:
            for _ in range(steps):
                loss = F.cross_entropy(self.model(image).float(), target)
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.optimizer.zero_grad()

        return run

    def loop(self, batches: BatchSource, steps: int) -> Callable[[], None]:
        """Run `steps` steps of the training loop, continuing where it stopped."""
        progress = Progress(self.accelerator.device)
        trainer = Trainer(self.task, self.model, self.optimizer, self.accelerator)

        def epochs() -> Iterator[None]:
            while True:
                yield from trainer.epoch(batches, progress, Display("", 1, 0, visible=False))
                progress.step_in_epoch = 0

        running = epochs()
        return lambda: list(itertools.islice(running, steps)) and None


def in_memory(args: argparse.Namespace) -> None:
    """Time the loop and bare steps in turn."""
    recipe = recipes.load(f"cifar100/{args.model}").replace(batch_size=args.batch)
    training = Training(recipe, 100, args)
    images = torch.randint(256, (max(50_000, args.batch), 32, 32, 3), dtype=torch.uint8)
    data = Dataset(images, torch.randint(100, (len(images),)), tuple(map(str, range(100))))
    device = training.accelerator.device
    batches = data.batches(
        args.batch, data.normalization(), device, augmentation=Augmentation(recipe.crop_padding, recipe.flip)
    )
    image, target = next(batches.train(0, 0))
    paths = {"bare": training.bare(image, target, args.steps), "loop": training.loop(batches, args.steps)}
    times = interleave(paths, args.rounds, args.device)
    shape = f"{args.steps} steps of batch {args.batch}" + ", compiled" * args.compile
    report("loop", args, f"{args.model}, data in memory", shape, "training", times, "bare")
    _rates(times, args.steps * args.batch)


def from_files(args: argparse.Namespace) -> None:
    """Time decoding, steps, and both together."""
    batch = min(args.batch, args.files // 2)
    steps = min(args.steps, args.files // batch)
    recipe = recipes.load("imagenet/resnet18").replace(batch_size=batch)
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), args.files)
        train, _ = load(f"folder:{folder}", workers=args.workers if args.workers >= 0 else None)
        training = Training(recipe, 2, args)
        batches = train.batches(
            batch, train.normalization(), training.accelerator.device, augmentation=Augmentation(flip=True)
        )
        image, target = next(batches.train(0, 0))

        def decoding() -> None:
            for _ in itertools.islice(batches.train(0, 0), steps):
                pass

        paths = {
            "decoding": decoding,
            "steps": training.bare(image, target, steps),
            "both": training.loop(batches, steps),
        }
        times = interleave(paths, max(3, args.rounds // 3), args.device, warmup=1)
    shape = f"{steps} steps of batch {batch}, {batches.num_workers} workers" + ", compiled" * args.compile
    report("loop", args, "resnet18, JPEG files", shape, "training", times, "steps")
    rates = _rates(times, steps * batch)
    limit = min(("decoding", "steps"), key=rates.__getitem__)
    print(f"what limits training from files here: {limit}")


def write_jpegs(folder: Path, number: int, size: tuple[int, int] = (500, 375)) -> None:
    """Write two classes of smooth random pictures (width, height) with some grain, as large as real photographs."""
    draw = np.random.default_rng(0)
    for k in range(number):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)
        grain = draw.normal(0, 6, (size[1], size[0], 3))
        path = folder / "train" / "ab"[k % 2] / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(path, quality=90)
        if k < 4:
            path = folder / "val" / "ab"[k % 2] / f"{k}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse.save(path)


def _rates(times: dict[str, list[float]], images: int) -> dict[str, float]:
    rates = {path: 1e3 * images / sorted(ms)[len(ms) // 2] for path, ms in times.items()}
    print(", ".join(f"{path}: {rate:,.0f} images/s" for path, rate in rates.items()))
    return rates


def main() -> None:
    """Run both benchmarks."""
    args = flags(__doc__, model="resnet20", batch=128, steps=10, files=256, workers=-1)
    in_memory(args)
    if args.files:
        from_files(args)


if __name__ == "__main__":
    main()
