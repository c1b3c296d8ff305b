"""Measure what BAM at the bottlenecks adds to a network's training step and forward pass.

    python benchmarks/network.py
    python benchmarks/network.py --compile --device cuda --batch 256
    python benchmarks/network.py --model cifar/resnet20 --image 32 --batch 128

"none" is the network alone; "released", "plain" and "bam" have that structure at the network's bottlenecks. A step is
forward, loss, backward and SGD with momentum.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from structures import Plain, Released
from timing import LAYOUTS, autocast, flags, interleave, report
from torch import nn

import bam
from bam.models import build

STRUCTURES: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "released": Released,
    "plain": Plain,
    "bam": bam.BAM,
    "bam recompute": partial(bam.BAM, recompute=True),
    "bam inductor": partial(bam.BAM, kernel="inductor"),
}


class Steps:
    """Training steps and forward passes of one network on one batch."""

    def __init__(self, model: nn.Module, args: argparse.Namespace) -> None:
        self.args = args
        self.model = model.to(args.device).to(memory_format=LAYOUTS[args.layout])
        self.run = torch.compile(self.model) if args.compile else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, fused=True)
        images = torch.randn(args.batch, 3, args.image, args.image, device=args.device)
        self.images = images.to(memory_format=LAYOUTS[args.layout])
        self.targets = torch.randint(100, (args.batch,), device=args.device)

    def training(self) -> None:
        """Run one training step."""
        self.model.train()
        with autocast(self.args):
            loss = F.cross_entropy(self.run(self.images).float(), self.targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def inference(self) -> None:
        """Run one forward pass in eval mode."""
        self.model.eval()
        with torch.no_grad(), autocast(self.args):
            self.run(self.images)


def network(structure: Callable[[int], nn.Module] | None, args: argparse.Namespace) -> Steps:
    """The network with a structure at its bottlenecks."""
    model = build(args.model, 100)
    if structure is not None:
        bam.attach(model, structure, image=args.image)
    return Steps(model, args)


def main() -> None:
    """Time the networks in turn."""
    args = flags(__doc__, model="resnet50", batch=16, image=224)
    structures = dict(STRUCTURES)
    if args.compile:
        del structures["bam recompute"]  # the compiler decides what to recompute
    networks = {name: network(structure, args) for name, structure in structures.items()}
    if args.device == "cuda":
        networks["bam triton"] = network(partial(bam.BAM, kernel="triton"), args)
    shape = f"batch {args.batch}, {args.image} x {args.image}" + ", compiled" * args.compile
    for phase, call in (("training", Steps.training), ("forward", Steps.inference)):
        times = interleave({name: partial(call, steps) for name, steps in networks.items()}, args.rounds, args.device)
        report("network", args, args.model, shape, phase, times, "none")


if __name__ == "__main__":
    main()
