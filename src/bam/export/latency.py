"""How fast a network is: as it is, compiled, and as the file it was exported to."""

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
    """Median milliseconds of a forward pass of one image at the size that was traced, for each way of running.

    The ways take turns, with as many threads as torch has; "compiled" is `torch.compile`. Where a way does not work
    here, its entry says why.
    """
    batch, *size = exported.checks[0].shape
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    image = torch.randn(1 if "batch" in exported.dynamic else batch, *size, device=device)
    rows: dict[str, float | str] = {"eager": "", "compiled": "", RUNTIMES[exported.path.suffix]: ""}
    ways: dict[str, Callable[[Tensor], Any]] = {
        "eager": model,
        RUNTIMES[exported.path.suffix]: open_file(exported.path),
    }
    with left_as_it_was(model):
        try:
            compiled = torch.compile(model)
            compiled(image)
            ways["compiled"] = compiled
        except RuntimeError as error:  # all of torch.compile's errors are
            rows["compiled"] = f"not measured: {reason(error)}"
        return rows | latency_ms(ways, image, rounds)


def format_latency(rows: Mapping[str, float | str]) -> str:
    """The result of `measure_latency` as a table."""
    width = max(map(len, rows))
    shown = {name: value if isinstance(value, str) else f"{value:9.2f} ms" for name, value in rows.items()}
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())
