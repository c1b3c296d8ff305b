"""What data and bookkeeping cost: steps of the training loop against bare steps on one batch, ResNet-20, on a CPU.

    python benchmarks/loop.py

Random images of CIFAR-100's size with its crops and flips; bf16 and channels_last.
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from timing import interleave, report

from bam import recipes
from bam.data import Batches, Dataset
from bam.models import build
from bam.training.display import Display
from bam.training.loop import Progress, train_epoch
from bam.training.optimization import optimizer as make_optimizer

STEPS = 10


def main() -> None:
    """Time blocks of steps in turn."""
    recipe = recipes.load("cifar100/resnet20")
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    model = build(recipe.model, 100).to(memory_format=torch.channels_last)
    model, optimizer = accelerator.prepare(model, make_optimizer(model, recipe))
    images = torch.randint(256, (50_000, 32, 32, 3), dtype=torch.uint8)
    data = Dataset(images, torch.randint(100, (50_000,)), tuple(map(str, range(100))))
    batches = Batches(data, recipe.batch_size, data.statistics(), crop_padding=recipe.crop_padding, flip=recipe.flip)
    display = Display("", 1, 0, visible=False)
    epoch = train_epoch(recipe, model, optimizer, batches, accelerator, Progress(torch.device("cpu")), display)
    image, target = next(batches.train(0, 0))

    def loop() -> None:
        for _ in range(STEPS):
            next(epoch)

    def bare() -> None:
        for _ in range(STEPS):
            loss = F.cross_entropy(model(image).float(), target)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

    times = interleave({"bare": bare, "loop": loop}, rounds=30)
    report("loop", f"resnet20, {STEPS} steps of batch {recipe.batch_size}, bf16 channels_last", times)


if __name__ == "__main__":
    main()
