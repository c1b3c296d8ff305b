"""Time BAM, the released and the plain structure at ResNet-50's three sites, eager and compiled.

    python benchmarks/module.py
    python benchmarks/module.py --compile --device cuda --batch 256

"released" is the structure of the authors' code, restated, and "plain" the paper's equations; "bam" is `bam.BAM`, and
"gate alone" its last step, on given logits. A floor is the time to move the necessary bytes: F read twice and F'
written, F and the gradient read twice each and the gradient written, in units of a copy of F, timed in turn.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from structures import Plain, Released
from timing import DTYPES, LAYOUTS, autocast, flags, interleave, report
from torch import Tensor, nn

from bam import BAM
from bam.costs import saved_bytes
from bam.kernels import GateOptions, gate

SITES = ((256, 56), (512, 28), (1024, 14))
STRUCTURES: dict[str, Callable[[int], nn.Module]] = {
    "released": Released,
    "plain": Plain,
    "bam": BAM,
    "bam recompute": partial(BAM, recompute=True),
    "bam inductor": partial(BAM, kernel="inductor"),
}
COPIES = {"forward": 1.5, "training": 4.0}  #: copies of F that move the necessary bytes, 3 and 8 times those of F


class Gate(nn.Module):
    """The gate alone, on random logits."""

    def __init__(self, channels: int, kernel: str = "torch") -> None:
        super().__init__()
        self.options = GateOptions(kernel=kernel)
        self.logits: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in and out."""
        if self.logits is None:
            n, c, h, w = x.shape
            sizes = ((n, c, 1, 1), (n, 1, h, w))
            self.logits = tuple(torch.randn(s, device=x.device, dtype=x.dtype, requires_grad=True) for s in sizes)
        return gate(x, *self.logits, options=self.options)


STRUCTURES |= {"gate alone": Gate, "gate alone, inductor": partial(Gate, kernel="inductor")}


def maps(args: argparse.Namespace) -> list[tuple[Tensor, Tensor]]:
    """F and its gradient at each site."""
    found = []
    for channels, side in SITES:
        side = max(1, side // args.shrink)
        x = torch.randn(args.batch, channels, side, side, device=args.device, dtype=DTYPES[args.dtype])
        x = x.to(memory_format=LAYOUTS[args.layout]).requires_grad_()
        found.append((x, torch.randn_like(x)))
    return found


def modules(args: argparse.Namespace) -> dict[str, list[nn.Module]]:
    """Path -> one module per site."""
    structures = dict(STRUCTURES)
    if args.device == "cuda":
        structures["bam triton"] = partial(BAM, kernel="triton")
    paths = {name: [build(channels).to(args.device) for channels, _ in SITES] for name, build in structures.items()}
    if args.compile:
        for name in [name for name in ("released", "plain", "bam", "bam triton") if name in paths]:
            paths[f"{name}, compiled"] = [torch.compile(module, dynamic=False) for module in paths[name]]
    return paths


def check(args: argparse.Namespace) -> None:
    """Check that all paths compute the same output."""
    x = torch.randn(2, 64, 7, 9, device=args.device)
    for structure in (Released, Plain):
        module = structure(64).to(args.device)
        torch.testing.assert_close(module(x), module.layers(x), rtol=1e-4, atol=1e-4)


def saved(modules: list[nn.Module], inputs: list[tuple[Tensor, Tensor]], args: argparse.Namespace) -> float:
    """Memory the modules keep for backward passes besides F and their parameters, in units of F."""
    kept = 0
    for module, (x, _) in zip(modules, inputs, strict=True):
        with autocast(args):
            kept += saved_bytes(partial(module, x), x, *module.parameters(), *module.buffers())
    return kept / sum(x.nbytes for x, _ in inputs)


def main() -> None:
    """Time a forward pass, and a forward and backward pass, of all three sites in turn."""
    args = flags(__doc__, batch=16, shrink=1)
    check(args)
    inputs, paths = maps(args), modules(args)

    def forward(name: str) -> None:
        with torch.no_grad(), autocast(args):
            for module, (x, _) in zip(paths[name], inputs, strict=True):
                module(x)

    def training(name: str) -> None:
        for module, (x, gradient) in zip(paths[name], inputs, strict=True):
            x.grad = None
            with autocast(args):
                y = module(x)
            y.backward(gradient.to(y.dtype))

    def copy() -> None:
        for x, _ in inputs:
            x.detach().clone()

    shape = f"batch {args.batch}" + f" side / {args.shrink}" * (args.shrink > 1)
    for phase, call in (("forward", forward), ("training", training)):
        times = interleave(
            {name: partial(call, name) for name in paths} | {"copy of F": copy}, args.rounds, args.device
        )
        floor = [COPIES[phase] * ms for ms in times["copy of F"]]
        kept = {name: saved(paths[name], inputs, args) for name in paths} if phase == "training" else None
        report("module", args, "BAM at ResNet-50's sites", shape, phase, times, "released", kept, floor)


if __name__ == "__main__":
    main()
