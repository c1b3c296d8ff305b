"""The precision of a run: the recipe's, or for "auto" the one that is fastest for its network on this device."""

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from bam.private import cpu_has_bf16
from bam.recipes import Recipe
from bam.tasks import Task, task_of
from bam.training.batches import sample

_ROUNDS = 3
_BATCH = 32  #: maximum number of images in a timed step
_MARGIN = 0.95  #: bf16 must take at most this share of the time of fp32
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolved(recipe: Recipe, device: torch.device, out: Path) -> Recipe:
    """`recipe` with a precision that suits the device; "auto" becomes that of the run in `out`, if there is one.

    It stays "auto" if there is a choice, see `fastest`.

    Raises:
        ValueError: for tf32 without an NVIDIA GPU.
    """
    if recipe.precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision tf32 needs an NVIDIA GPU, and this is {device.type!r}: choose fp32 or bf16")
    if recipe.precision != "auto":
        return recipe
    if (out / "recipe.yaml").exists() and (chosen := Recipe.from_yaml(out / "recipe.yaml").precision) != "auto":
        return recipe.replace(precision=chosen)
    choices = candidates(device)
    return recipe.replace(precision=choices[0]) if len(choices) == 1 else recipe


def candidates(device: torch.device) -> list[str]:
    """The precisions worth trying on `device`."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = device.type == "cpu" and cpu_has_bf16()
    return ["fp32", "bf16"] if has_bf16 else ["fp32"]


def fastest(recipe: Recipe, train: Any, device: torch.device) -> tuple[str, dict[str, float]]:
    """The fastest precision for a training step of the recipe's network without attention.

    Times a few steps of each candidate in turn, which takes seconds. bf16 must be clearly faster: it is less precise.

    Args:
        recipe: what to train.
        train: the training images.
        device: the device of the run.

    Returns: the precision, and the median milliseconds of a step in each candidate.
    """
    plain = recipe.replace(attention="none")
    task = task_of(plain)
    network = task.network(train).to(device).to(memory_format=torch.channels_last).train()
    size = min(_BATCH, max(1, recipe.batch_size // recipe.accumulation))
    batch = sample(task, network, train, size, device)
    times: dict[str, list[float]] = {name: [] for name in candidates(device)}
    for number in range(_ROUNDS + 1):
        for name in times:
            seconds = _timed_step(task, network, batch, name)
            if number:  # the first pass warms up
                times[name].append(1000 * seconds)
    medians = {name: round(median(values), 3) for name, values in times.items()}
    best = min(medians, key=lambda name: medians[name] / (_MARGIN if name == "bf16" else 1))
    return best, medians


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """torch's autocast for a run in `precision`."""
    return torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST)


def _timed_step(task: Task, network: nn.Module, batch: tuple[Any, Any], precision: str) -> float:
    """Seconds of a forward and backward pass."""
    device = next(network.parameters()).device
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    with autocast(device, precision):
        loss, _ = task.loss(network, *batch)
    loss.backward()
    wait()
    network.zero_grad()
    return time.perf_counter() - start
