"""Measure the latency of networks as people ship them, one image at a time, without and with BAM at the bottlenecks.

    python benchmarks/inference.py --threads 1
    python benchmarks/inference.py --models cifar/resnet8,cifar/resnet20 --image 32

"eager" is PyTorch, "fused" `bam.fuse`, "compiled" torch.compile of the fused network; "onnxruntime" runs its .onnx file
in fp32, and "onnxruntime int8" the same quantised (calibrated on noise: only the time counts here). The networks
without and with BAM take turns, one way after another. The threads of PyTorch, and those of each ONNX Runtime session,
go on spinning after a run, and take the cores from what runs next. So a turn is 11 calls, and only the last one counts.
A ratio is BAM to none in the same way of running.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import flags, interleave, report
from torch import nn

import bam
from bam.export import export_model
from bam.export.formats import open_file
from bam.models import build


def ways(model: nn.Module, image: torch.Tensor, folder: Path) -> dict[str, Callable[[], Any]]:
    """Ways to run a network in eval mode on an image (1, 3, H, W)."""
    fused = bam.fuse(model)
    noise = torch.randn(8, *image.shape[1:])
    for name, options in (
        ("fp32", {}),
        ("int8", {"precision": "int8", "calibration": noise, "tolerance": float("inf")}),
    ):
        export_model(fused, folder / f"{name}.onnx", image.shape[1:], (), **options)
    runs = {"eager": model, "fused": fused, "compiled": torch.compile(fused)}
    runs |= {"onnxruntime": open_file(folder / "fp32.onnx"), "onnxruntime int8": open_file(folder / "int8.onnx")}
    return {name: partial(run, image) for name, run in runs.items()}


def measure(name: str, args: argparse.Namespace) -> None:
    """Time one network."""
    image = torch.randn(1, 3, args.image, args.image)
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in ("none", "bam"):
            model = build(name, 1000)
            if path == "bam":
                bam.attach(model, image=args.image)
            model.to(memory_format=torch.channels_last).eval()
            for way, call in ways(model, image, Path(folder, path)).items():
                calls[way, path] = call
        for way in dict.fromkeys(way for way, _ in calls):
            with torch.inference_mode():
                times = interleave({path: calls[way, path] for path in ("none", "bam")}, args.rounds, before=10)
            report("inference", args, name, f"batch 1, {args.image} x {args.image}, {way}", "forward", times, "none")


def main() -> None:
    """Time all networks."""
    models = "resnet18,resnet50,mobilenet_v3_large,timm/tf_efficientnet_lite0"
    args = flags(__doc__, models=models, image=224)
    args.dtype = "fp32"
    for name in args.models.split(","):
        measure(name, args)


if __name__ == "__main__":
    main()
