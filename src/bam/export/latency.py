"""Measure a network's latency: eager, compiled, and as an exported file."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bam.costs import latency_ms
from bam.dryrun import left_as_it_was
from bam.export.export import Exported
from bam.export.formats import open_file
from bam.export.reasons import reason

RUNTIMES = {".onnx": "onnxruntime (CPU)", ".pt2": "torch.export", ".torchscript": "TorchScript"}


def measure_latency(model: nn.Module, exported: Exported, rounds: int = 30) -> dict[str, float | str]:
    """Median milliseconds per forward pass of one image at the traced size, for each way of running the network.

    The ways ("eager", "compiled" by `torch.compile`, and the file in its runtime) take turns, with torch's number of
    threads. If a way fails on this machine, its entry is the reason instead of a number.

    Args:
        model: the network.
        exported: its file, from `export_model`.
        rounds: number of passes for each way.
    """
    batch, *size = exported.checks[0].shape
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    image = torch.randn(1 if "batch" in exported.dynamic else batch, *size, device=device)
    runtime = RUNTIMES[exported.path.suffix]
    rows: dict[str, float | str] = {"eager": "", "compiled": "", runtime: ""}
    ways: dict[str, Callable[[Tensor], Any]] = {"eager": model, runtime: open_file(exported.path)}
    with left_as_it_was(model):
        try:
            compiled = torch.compile(model)
            compiled(image)
            ways["compiled"] = compiled
        except RuntimeError as error:  # the base class of torch.compile's errors
            rows["compiled"] = f"not measured: {reason(error)}"
        return rows | latency_ms(ways, image, rounds)


def format_latency(rows: Mapping[str, float | str]) -> str:
    """The result of `measure_latency` as a table."""
    width = max(map(len, rows))
    texts = {name: value if isinstance(value, str) else f"{value:9.2f} ms" for name, value in rows.items()}
    return "\n".join(f"{name:<{width}}  {text}" for name, text in texts.items())
