"""Measure how BAM's cost grows with the batch, the resolution, the channels, and the number of sites in a network.

    python benchmarks/scaling.py

One of the four varies at a time. Batch, resolution and channels: forward and backward pass of one module, compared with
the released structure and a copy of F. Sites: a training step of ResNet-50 with attention at the first, the first two
and all three bottlenecks, and at every block.
"""

import argparse
from functools import partial

import torch
from network import Steps
from structures import Released
from timing import DTYPES, LAYOUTS, autocast, flags, interleave, report

import bam
from bam.models import build

BATCH, SIDE, CHANNELS = 16, 28, 256
VARIED = {"batch": (4, 8, 16, 32, 64), "side": (7, 14, 28, 56, 112), "channels": (64, 128, 256, 512, 1024)}
SITES = {"1 site": ["layer1"], "2 sites": ["layer1", "layer2"], "3 sites": None, "every block": "every block"}


def of_a_module(args: argparse.Namespace) -> None:
    """Vary batch, resolution and channels."""
    for axis, values in VARIED.items():
        for value in values[: args.values]:
            size = {"batch": BATCH, "side": SIDE, "channels": CHANNELS} | {axis: value}
            x = torch.randn(size["batch"], size["channels"], size["side"], size["side"], dtype=DTYPES[args.dtype])
            x = x.to(args.device).to(memory_format=LAYOUTS[args.layout]).requires_grad_()
            gradient = torch.randn_like(x)
            modules = {"released": Released(size["channels"]), "bam": bam.BAM(size["channels"])}
            if args.device == "cuda":
                modules["bam triton"] = bam.BAM(size["channels"], kernel="triton")

            def step(module: torch.nn.Module, x: torch.Tensor = x, gradient: torch.Tensor = gradient) -> None:
                x.grad = None
                with autocast(args):
                    y = module(x)
                y.backward(gradient.to(y.dtype))

            calls = {name: partial(step, module.to(args.device)) for name, module in modules.items()}
            calls["copy of F"] = partial(torch.clone, x.detach())
            times = interleave(calls, args.rounds, args.device, warmup=3)
            floor = [4 * ms for ms in times["copy of F"]]
            report("scaling", args, axis, str(value), "training", times, "released", floor=floor)


def of_a_network(args: argparse.Namespace) -> None:
    """Vary the number of sites."""
    networks = {"none": Steps(build("resnet50", 100), args)}
    for name, sites in SITES.items():
        networks[name] = Steps(bam.attach(build("resnet50", 100), sites=sites, image=args.image), args)
    calls = {name: steps.training for name, steps in networks.items()}
    times = interleave(calls, max(3, args.rounds // 2), args.device)
    report(
        "scaling",
        args,
        "sites",
        f"ResNet-50, batch {args.batch}, {args.image} x {args.image}",
        "training",
        times,
        "none",
    )


def main() -> None:
    """Vary all four."""
    args = flags(__doc__, batch=16, image=224, values=5)
    of_a_module(args)
    of_a_network(args)


if __name__ == "__main__":
    main()
