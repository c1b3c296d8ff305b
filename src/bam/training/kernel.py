"""The kernel of BAM's gates in a run: the recipe's, or for "auto" the one that is fastest on this device."""

import time
from collections.abc import Sequence
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
_CLOSE = 0.02  #: largest relative difference from the results of "torch"; in bfloat16 they differ by 0.003


def resolved(recipe: Recipe, out: Path) -> Recipe:
    """`recipe` with its kernel; "auto" becomes that of the run in `out`, or else BAM_KERNEL.

    It stays "auto" if there is neither, see `fastest`.
    """
    if recipe.kernel != "auto":
        return recipe
    path = out / "recipe.yaml"
    name: Any = Recipe.from_yaml(path).kernel if path.exists() else "auto"
    name = named(None) if name == "auto" else name
    if name == "auto" and path.exists():  # of a version without this field, where it was torch
        name = "torch"
    return recipe.replace(kernel=name)


def is_open(recipe: Recipe) -> bool:
    """Whether the recipe leaves the kernel of its attention open; a compiled network compiles its gates, too."""
    attention = recipe.attention
    return attention.name != "none" and "kernel" not in attention.options and not getattr(recipe, "compile", False)


def of(recipe: Recipe) -> str:
    """The kernel that trains the recipe's attention."""
    return str(recipe.attention.options.get("kernel") or recipe.kernel)


def use(recipe: Recipe, network: nn.Module) -> None:
    """Let the BAM modules of `network` use the recipe's kernel, unless they were built with one of their own."""
    for module in _undecided(recipe, network):
        module.kernel = recipe.kernel


def _undecided(recipe: Recipe, network: nn.Module) -> list[Any]:
    if not is_open(recipe):
        return []
    modules = (module for module in network.modules() if isinstance(module, AttentionModule))
    modules = (module for module in modules if "kernel" in module.runtime_options)
    return [module for module in modules if module.kernel in ("auto", named(None))]


def candidates(device: torch.device) -> list[str]:
    """The kernels worth trying on `device`; "torch" works everywhere, and is the first."""
    return {"cuda": ["torch", "triton", "inductor"], "cpu": ["torch", "inductor"]}.get(device.type, ["torch"])


def fastest(
    recipes: Sequence[Recipe], train: Any, device: torch.device, processes: int = 1
) -> tuple[str, dict[str, float]]:
    """The fastest kernel for a training step of the BAM modules of the recipes' networks; measuring takes seconds.

    A short run keeps "torch" without measuring.

    Args:
        recipes: what to train: the variants of a comparison.
        train: the training images.
        device: the device of the run.
        processes: how many processes share a batch.

    Returns: the kernel, and the median milliseconds of the modules of all networks, forward and backward, with each
        kernel that was timed.
    """
    recipe = recipes[0]
    steps = recipe.epochs * (len(train) // recipe.batch_size)
    if steps < _STEPS:
        return "torch", {}
    size = max(1, recipe.batch_size // recipe.accumulation // processes)
    timings = _total(recipes, ["torch"], train, size, device)
    if timings["torch"] / 1000 * recipe.accumulation * steps >= _SECONDS and len(candidates(device)) > 1:
        print(f"timing the kernels of BAM's gate: {', '.join(candidates(device))}")
        timings = _total(recipes, candidates(device), train, size, device)
    best = min(timings, key=lambda name: timings[name] * (_MARGIN if name == "torch" else 1))
    return best, timings if timings["torch"] else {}


def _total(
    recipes: Sequence[Recipe], kernels: Sequence[str], train: Any, size: int, device: torch.device
) -> dict[str, float]:
    """Kernel -> milliseconds of the modules of all networks, without kernels that cannot compute one of them."""
    total = dict.fromkeys(kernels, 0.0)
    for recipe in recipes:
        timings = _timed(_calls(recipe, train, size, device), list(total), recipe.precision)
        total = {name: total[name] + timings[name] for name in total if name in timings}
    return total


class _Call(NamedTuple):
    """A module, and the features that it gets in training."""

    module: Any
    features: Tensor


def _calls(recipe: Recipe, train: Any, size: int, device: torch.device) -> list[_Call]:
    if getattr(recipe, "batchnorm", None) == "sync":
        recipe = recipe.replace(batchnorm="batch")  # the other processes wait
    task, calls = task_of(recipe), list[_Call]()
    network = task.network(train).to(device).to(memory_format=torch.channels_last).train()
    handles = [
        module.register_forward_pre_hook(lambda module, inputs: calls.append(_Call(module, inputs[0].detach())))
        for module in _undecided(recipe, network)
    ]
    if handles:
        batch = sample(task, network, train, size, device)
        with torch.no_grad(), autocast(device, recipe.precision):
            task.loss(network, *batch)
    for handle in handles:
        handle.remove()
    return calls


def _timed(calls: Sequence[_Call], kernels: Sequence[str], precision: str) -> dict[str, float]:
    """Kernel -> median milliseconds of all calls; the kernels take turns, those that fail are left out."""
    times: dict[str, list[float]] = {name: [] for name in kernels}
    expected: list[Tensor] = []
    for number in range(_ROUNDS + 1):
        for name in list(times):
            try:
                seconds, results = _run(calls, name, precision)
                if number:
                    times[name].append(1000 * seconds)
                elif name == "torch":
                    expected = results
                else:  # it has just compiled
                    _check(results, expected)
            except Exception as error:  # a compiler may raise anything; a kernel that fails is left out and named
                if name == "torch":
                    raise
                print(f"kernel {name} is left out: {str(error).partition(chr(10))[0] or type(error).__name__}")
                del times[name]
    return {name: round(median(values), 3) for name, values in times.items()}


def _run(calls: Sequence[_Call], kernel: str, precision: str) -> tuple[float, list[Tensor]]:
    """Seconds of a forward and backward pass of all calls; and their outputs and the gradients of their features."""
    seconds, results = 0.0, list[Tensor]()
    for module, features in calls:
        features = features.detach().requires_grad_()
        wait = torch.cuda.synchronize if features.device.type == "cuda" else (lambda: None)
        module.kernel = kernel
        wait()
        start = time.perf_counter()
        with autocast(features.device, precision):
            output = module(features)
        output.backward(torch.ones_like(output))
        wait()
        seconds += time.perf_counter() - start
        module.zero_grad()
        assert features.grad is not None
        results += [output.detach(), features.grad]
    return seconds, results


def _check(results: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for result, wanted in zip(results, expected, strict=True):
        difference = (result - wanted).float().norm() / wanted.float().norm()
        if not difference <= _CLOSE:
            raise ValueError(f"its results differ from those of torch by {difference:.2g} of their norm")
