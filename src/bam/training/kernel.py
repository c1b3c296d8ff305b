"""The kernel of BAM's gates in a run: the recipe's, or for "auto" the one that is fastest on this device."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bam.attention import AttentionModule
from bam.kernels.backend import named
from bam.recipes import Recipe
from bam.tasks import task_of
from bam.training.batches import sample
from bam.training.precision import autocast

#: A run of fewer steps does not measure, nor one in which the modules take less time, in seconds: compiling takes some
#: fifteen.
_STEPS, _SECONDS = 1000, 180
_ROUNDS = 5
_MARGIN = 0.95  #: a kernel must take at most this share of the modules' time with "torch"


def resolved(recipe: Recipe, out: Path) -> Recipe:
    """`recipe` with its kernel; "auto" becomes that of the run in `out`, or else BAM_KERNEL.

    It stays "auto" if there is neither, see `fastest`.
    """
    if recipe.kernel != "auto":
        return recipe
    if (out / "recipe.yaml").exists():
        earlier = Recipe.from_yaml(out / "recipe.yaml").kernel
        return recipe.replace(kernel="torch" if earlier == "auto" else earlier)  # "auto" was torch in version 0.2
    return recipe.replace(kernel=named(None))


def use(kernel: str, network: nn.Module) -> None:
    """Let the BAM modules of `network` use `kernel`, except where their own options, or BAM_KERNEL, set one."""
    for module in _undecided(network):
        module.kernel = kernel


def _undecided(network: nn.Module) -> list[Any]:
    modules = (module for module in network.modules() if isinstance(module, AttentionModule))
    return [module for module in modules if "kernel" in module.runtime_options and module.kernel == "auto"]


def candidates(device: torch.device) -> list[str]:
    """The kernels worth trying on `device`; "torch" works everywhere, and is the first."""
    return ["torch", *(["triton"] if device.type == "cuda" else []), "inductor"]


def fastest(
    recipes: Sequence[Recipe], train: Any, device: torch.device, processes: int = 1, say: Callable[[str], Any] = print
) -> tuple[str, dict[str, float]]:
    """The fastest kernel for a training step of the BAM modules of the recipes' networks; measuring takes seconds.

    A short run keeps "torch" without measuring, as does a compiled network, which compiles its gates anyway.

    Args:
        recipes: what to train; they differ only in attention.
        train: the training images.
        device: the device of the run.
        processes: how many processes share a batch.
        say: is told what is timed if that takes seconds.

    Returns: the kernel, and the median milliseconds of the modules of all networks, forward and backward, with each
        kernel that was timed.
    """
    recipe, timings = recipes[0], dict[str, float]()
    size = recipe.batch_size // recipe.accumulation
    steps = recipe.epochs * (len(train) // size)
    if steps < _STEPS or getattr(recipe, "compile", False):
        return "torch", timings
    calls = [call for each in recipes for call in _calls(each, train, max(1, size // processes), device)]
    if not calls:
        return "torch", timings
    timings = _timed(calls, ["torch"], recipe.precision)
    if timings["torch"] / 1000 * steps >= _SECONDS:
        say(f"timing the kernels of BAM's gate: {', '.join(candidates(device))}")
        timings = _timed(calls, candidates(device), recipe.precision)
    best = min(timings, key=lambda name: timings[name] * (_MARGIN if name == "torch" else 1))
    return best, timings


class _Call(NamedTuple):
    """A module, and the features that it gets in training."""

    module: Any
    features: Tensor


def _calls(recipe: Recipe, train: Any, size: int, device: torch.device) -> list[_Call]:
    task, calls = task_of(recipe), list[_Call]()
    network = task.network(train).to(device).to(memory_format=torch.channels_last).train()
    for module in _undecided(network):
        module.register_forward_pre_hook(lambda module, inputs: calls.append(_Call(module, inputs[0].detach())))
    if _undecided(network):
        batch = sample(task, network, train, size, device)
        with torch.no_grad(), autocast(device, recipe.precision):
            task.loss(network, *batch)
    return calls


def _timed(calls: Sequence[_Call], kernels: Sequence[str], precision: str) -> dict[str, float]:
    """Kernel -> median milliseconds of all calls; kernels that do not run here are left out, the others take turns."""
    times: dict[str, list[float]] = {name: [] for name in kernels}
    for number in range(_ROUNDS + 1):
        for name in list(times):
            try:
                milliseconds = 1000 * sum(_seconds(call, name, precision) for call in calls)
            except RuntimeError:  # e.g. no compiler
                if name == "torch":
                    raise
                del times[name]
            else:
                times[name] += [milliseconds] if number else []  # the first pass compiles
    return {name: round(median(values), 3) for name, values in times.items()}


def _seconds(call: _Call, kernel: str, precision: str) -> float:
    """Seconds of a forward and backward pass."""
    module, features = call.module, call.features.requires_grad_()
    wait = torch.cuda.synchronize if features.device.type == "cuda" else (lambda: None)
    module.kernel = kernel
    wait()
    start = time.perf_counter()
    with autocast(features.device, precision):
        output = module(features)
    output.backward(torch.ones_like(output))
    wait()
    seconds = time.perf_counter() - start
    module.zero_grad()
    features.grad = None
    return seconds
