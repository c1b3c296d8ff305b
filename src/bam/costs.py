"""The cost of a network: parameters, multiply-adds, latency, and memory in training."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bam.attention.contract import attention_modules
from bam.dryrun import Image, dry_run, image_shape

# The convention of the "GFLOPs" in the paper's tables: convolutions and linear layers; a multiply-add counts once.
_COUNTED = {"convolution", "_convolution", "cudnn_convolution", "addmm", "mm", "linear"}


@dataclass(frozen=True)
class Cost:
    """Parameters, and the multiply-adds (MACs) of convolutions and linear layers for one image."""

    params: int
    macs: int

    def __str__(self) -> str:
        return f"{self.params:,} parameters, {format_count(self.macs)} MACs"


def cost(model: nn.Module, image: Image | None = None) -> Cost:
    """Count the parameters of `model` and its multiply-adds (MACs) for one image, in eval mode.

    Only convolutions and linear layers count, as in the "GFLOPs" of the BAM paper, and the operations that attention
    modules report (`AttentionModule.uncounted_macs`): deformable convolution, dynamic filters, grid sampling.

    Args:
        model: any network; it is left unchanged.
        image: a tensor (N, C, H, W) or a size in pixels (a side, (H, W) or (C, H, W)); default: the model's own input
            size, or 224 x 224.

    Raises:
        ValueError: if the model cannot run on such an image.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton, which would slow down `import bam`

    counter = FlopCounterMode(display=False)
    uncounted: list[int] = []

    def count(module: Any, inputs: Any, options: dict[str, Any], output: torch.Tensor) -> None:
        uncounted.append(module.uncounted_macs(output, weight=options.get("weight")))

    def watch() -> FlopCounterMode:
        uncounted.clear()
        for _, module in attention_modules(model):
            module.register_forward_hook(count, with_kwargs=True)
        return counter

    dry_run(model, image, watch=watch)
    flops = counter.get_flop_counts().get("Global", {})
    counted = sum(number for op, number in flops.items() if str(op).split(".")[-1] in _COUNTED)
    batch = image_shape(model, image)[0]
    return Cost(params=sum(p.numel() for p in model.parameters()), macs=(counted // 2 + sum(uncounted)) // batch)


def format_count(number: float) -> str:
    """4089184256 -> '4.089 G'."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.4g}{name}"
    return f"{number:g}"


def latency_ms(
    models: Mapping[str, Callable[[torch.Tensor], Any]], image: torch.Tensor, rounds: int = 30
) -> dict[str, float]:
    """Median milliseconds of a forward pass for each of `models`.

    The models take turns, so that noise on the machine affects all of them alike. Modules are put into eval mode.

    Args:
        models: modules, or functions of the image, by name.
        image: the input (N, C, H, W) of each forward pass.
        rounds: measured forward passes per model, after three to warm up.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    synchronize = torch.cuda.synchronize if image.is_cuda else (lambda: None)
    with torch.no_grad():
        for number in range(rounds + 3):
            for name, model in models.items():
                if isinstance(model, nn.Module):
                    model.eval()
                synchronize()
                start = time.perf_counter()
                model(image)
                synchronize()
                if number >= 3:  # the first passes warm up
                    times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def saved_bytes(compute: Callable[[], Any], *known: torch.Tensor) -> int:
    """The bytes of memory that `compute()` keeps for a backward pass.

    Tensors in `known` do not count, because they are in memory anyway: parameters, buffers, the input.
    """
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = compute()  # kept until the count is complete, so that no memory is reused
    for tensor in known:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    del output
    return sum(storages.values())
