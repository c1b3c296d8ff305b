"""Time the tiles of the Triton gate, forward and forward with backward, at ResNet-50's sites: for tuning on a GPU.

    python benchmarks/tiles.py --device cuda --batch 256

A tile is what one program computes: rows x columns, with a number of warps. The ratio is to the present choice.
"""

import argparse
from functools import partial

import torch
from module import maps
from timing import flags, interleave, report

from bam.kernels import GateOptions, gate, triton_gate

ELEMENTS, COLUMNS, WARPS = (1024, 2048, 4096, 8192), (64, 128, 256), (4, 8)
CHOSEN, CHOSEN_WARPS = triton_gate.tile, triton_gate.WARPS


def shaped(elements: int, columns: int, i: int, j: int) -> tuple[int, int]:
    """A tile of at most so many elements and columns, for rows and columns of the features."""
    columns = min(triton_gate.triton.next_power_of_2(j), columns)
    return min(triton_gate.triton.next_power_of_2(i), elements // columns), columns


def choose(name: str) -> None:
    """Let the gate use the tile of a variant, e.g. "4096, 128 columns, 8 warps"."""
    if name == "chosen":
        triton_gate.tile, triton_gate.WARPS = CHOSEN, CHOSEN_WARPS
    else:
        elements, columns, warps = (int(part.split()[0]) for part in name.split(", "))
        triton_gate.tile, triton_gate.WARPS = partial(shaped, elements, columns), warps


def main() -> None:
    """Time all variants in turn."""
    args: argparse.Namespace = flags(__doc__, batch=16, shrink=1)
    inputs = []
    for x, gradient in maps(args):
        n, c, h, w = x.shape
        logits = [torch.randn(size, device=args.device, requires_grad=True) for size in ((n, c, 1, 1), (n, 1, h, w))]
        inputs.append((x, logits, gradient))

    def forward(name: str) -> None:
        choose(name)
        with torch.no_grad():
            for x, logits, _ in inputs:
                gate(x, *logits, options=GateOptions(kernel="triton"))

    def training(name: str) -> None:
        choose(name)
        for x, logits, gradient in inputs:
            x.grad = None
            gate(x, *logits, options=GateOptions(kernel="triton")).backward(gradient)

    def copy() -> None:
        for x, *_ in inputs:
            x.detach().clone()

    names = ["chosen"] + [f"{e}, {c} columns, {w} warps" for e in ELEMENTS for c in COLUMNS for w in WARPS]
    for phase, call, copies in (("forward", forward, 1.0), ("training", training, 2.5)):
        paths = {name: partial(call, name) for name in names} | {"copy of F": copy}
        times = interleave(paths, args.rounds, args.device)
        floor = [copies * ms for ms in times["copy of F"]]
        report("tiles", args, "the gate", f"batch {args.batch}", phase, times, "chosen", floor=floor)


if __name__ == "__main__":
    main()
