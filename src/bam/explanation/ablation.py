"""Ablation of a trained network: its accuracy with parts of the attention switched off."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bam.attention.contract import logit_branches
from bam.explanation.bootstrap import NO_VERDICT, Estimate, estimates, over_sites
from bam.explanation.passes import Batches, checked, class_logits, undisturbed
from bam.private import uncompiled
from bam.surgery import attended, without_attention


@dataclass(frozen=True)
class Ablation:
    """The network with part of its attention switched off."""

    accuracy: Estimate
    difference: Estimate  #: accuracy minus the whole network's accuracy, image by image
    changed: float  #: share of images whose predicted class changes
    verdict: str  #: the conclusion that the interval of the difference supports


@dataclass(frozen=True)
class Ablations:
    """A network's accuracy, with all its attention and without parts of it."""

    accuracy: Estimate  #: of the whole network
    all_off: Ablation
    sites_off: dict[str, Ablation]  #: site -> result with only that site switched off
    branches_alone: dict[str, Ablation]  #: branch -> result with only that branch, at sites that have several


def ablations(network: nn.Module, batches: Batches) -> Ablations:
    """Accuracy with each site off, all attention off, and each branch alone, with 95 % paired bootstrap intervals.

    The network is not retrained. A drop therefore shows that it relies on this attention, not that a network trained
    without attention would be worse; for that, compare runs (`bam compare`).

    Args:
        network: a classifier with attention; its state is restored.
        batches: normalised images (N, 3, H, W) and their classes (N,).

    Raises:
        ValueError: as `bam.explanation.attention_statistics`.
    """
    network = uncompiled(network)
    switches = _switches(network)
    predictions: dict[str, list[Tensor]] = {name: [] for name in switches}
    targets = []
    for batch in checked(network, batches):
        targets.append(batch.classes.cpu())
        with undisturbed(network), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            for name, switched in switches.items():
                with switched():
                    logits = class_logits(network, batch.images, batch.classes)
                predictions[name].append(logits.argmax(1).cpu())
    results = _compared({name: torch.cat(parts) for name, parts in predictions.items()}, torch.cat(targets))
    accuracy = results.pop("whole").accuracy
    grouped: dict[str, dict[str, Ablation]] = {"off": {}, "alone": {}}
    all_off = results.pop("all off")
    for name, result in results.items():
        kind, _, part = name.partition(" ")
        grouped[kind][part] = result
    return Ablations(accuracy, all_off, grouped["off"], grouped["alone"])


def _switches(network: nn.Module) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """Forms of the network, "whole", "all off", "off SITE" and "alone BRANCH" -> a context that switches to it."""
    modules = attended(network)
    if not modules:
        raise ValueError(f"{type(network).__name__} has no attention to switch off: attach some with bam.attach")
    switches: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "whole": contextlib.nullcontext,
        "all off": partial(without_attention, network),
    }
    switches |= {f"off {site}": partial(without_attention, network, [site]) for site in modules}
    branches = dict.fromkeys(branch for module in modules.values() for branch in logit_branches(module))
    return switches | {f"alone {branch}": partial(branch_alone, network, branch) for branch in branches}


@contextlib.contextmanager
def branch_alone(network: nn.Module, branch: str) -> Iterator[None]:
    """In this context, all other branches have neutral logits (0 if logits are added) at every site.

    Modules without this branch do not change.

    Raises:
        ValueError: if no attention module of the network has a branch called `branch`.
    """
    modules = [logit_branches(module) for module in attended(uncompiled(network)).values()]
    known = dict.fromkeys(name for branches in modules for name in branches)
    if branch not in known:
        raise ValueError(f"this network's attention has no branch {branch!r} (known: {', '.join(known) or 'none'})")
    with contextlib.ExitStack() as hooks:
        for branches in modules:
            for name, other in branches.items() if branch in branches else ():
                if name != branch:
                    hooks.callback(other.module.register_forward_hook(partial(_silence, other.neutral)).remove)
        hooks.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code runs no new hooks
        yield


def _silence(logit: float, module: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
    return torch.full_like(logits, logit)


def _compared(predictions: dict[str, Tensor], targets: Tensor) -> dict[str, Ablation]:
    correct = {name: (predicted == targets).double() for name, predicted in predictions.items()}
    differences = {f"minus {name}": values - correct["whole"] for name, values in correct.items()}
    sites = [name for name in differences if name.startswith("minus off ")]
    results = estimates(correct | differences, len(sites))
    off = over_sites({name: {"off": results[name]} for name in sites})
    results |= {name: corrected["off"] for name, corrected in off.items()}
    return {
        name: Ablation(
            results[name],
            results[f"minus {name}"],
            (predicted != predictions["whole"]).double().mean().item(),
            _verdict(results[f"minus {name}"], name),
        )
        for name, predicted in predictions.items()
    }


def _verdict(difference: Estimate, name: str) -> str:
    kind, _, part = name.partition(" ")
    condition = f"with the {part} branch alone" if kind == "alone" else "without it"
    match difference.sign:
        case None:
            return NO_VERDICT
        case 0:
            return f"no difference in accuracy shown {condition}"
        case -1:
            return f"evidence: accuracy falls {condition}"
    return f"contrary: accuracy rises {condition}"
