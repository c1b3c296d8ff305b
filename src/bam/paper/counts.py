"""This package's counts for the rows of the paper's tables."""

import copy
import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import nn

from bam.costs import cost
from bam.models import build
from bam.models.residual import stride_first
from bam.paper.tables import NOTES, Row
from bam.placement import find_bottlenecks
from bam.recipes import RECIPES, Recipe, variant
from bam.surgery import attach
from bam.surgery.insertion import attended_modules
from bam.tasks import Classes, available_tasks, task_of

_NUM_CLASSES = {"voc0712": 20, "coco": 80}


@dataclass(frozen=True)
class Counts:
    """Parameters and multiply-adds of a row's network, with BAM in the paper's layout."""

    params: int
    released_params: int  #: with BAM in the layout of the authors' code
    macs: int  #: with the strides of the paper's network
    modern_macs: int  #: with the strides of torchvision's bottleneck blocks; equals `macs` without such blocks


def count(row: Row) -> Counts | None:
    """Build the row's network and count; None if its task is not installed."""
    if RECIPES[row.recipe]().task not in {task.name for task in available_tasks()}:
        return None
    return _count(row.recipe, row.variant)


@functools.cache
def _count(name: str, text: str) -> Counts:
    recipe = RECIPES[name]()
    if recipe.task != "classification":
        return _count_by_task(variant(recipe, text))
    side = recipe.data_options.get("size", 32)
    with torch.device("meta"):
        net = build(_modern(recipe.model))
        if text == "block":
            _add_blocks(net, side)
        else:
            attach(net, variant(recipe, text).attention, image=side)
        extra = _more_than_released(net)
    modern = cost(net, side)
    macs = modern.macs if recipe.model == _modern(recipe.model) else cost(stride_first(net), side).macs
    return Counts(modern.params, modern.params - extra, macs, modern.macs)


def _count_by_task(recipe: Recipe) -> Counts:
    """Let the task build the network and count, with torchvision's strides and the network's own image size."""
    task = task_of(recipe)
    network = task.network(Classes(_NUM_CLASSES[recipe.data]), to_train=False)
    counted = task.cost(network, (0, 0))
    return Counts(counted.params, counted.params - _more_than_released(network), counted.macs, counted.macs)


def _more_than_released(net: nn.Module) -> int:
    """The number of parameters that the network's BAMs have beyond those in the authors' layout."""
    extra = 0
    for site, carrier in attended_modules(net).items():
        spec = carrier.attention_spec.attention
        if spec.name == "bam":
            released = dataclasses.replace(spec, options=spec.options | {"layout": "released"}, identity=False)
            extra += _params(carrier.attention) - _params(released.build(site.channels))
    return extra


def unmet(row: Row, counts: Counts | None) -> dict[str, str]:
    """Printed numbers that differ from the rounded counts -> the reason, if known.

    Raises:
        KeyError: for such a number without an entry in `NOTES`.
    """
    if counts is None:
        return {}
    pairs = ((row.params, counts.params / 1e6), (row.gflops, counts.macs / 1e9))
    differing = [printed for printed, value in pairs if printed and not rounds_to(printed, value)]
    return {printed: NOTES[row.recipe, row.variant, printed] for printed in differing}


def rounds_to(printed: str, value: float) -> bool:
    """Whether `value`, rounded to as many decimals as `printed`, equals it."""
    return f"{value:.{len(printed.partition('.')[2])}f}" == printed


def _modern(model: str) -> str:
    """The name of the same network with the stride in the 3x3 convolution of its bottleneck blocks, if any."""
    return model.removeprefix("paper/") if model.startswith("paper/res") else model.removesuffix("_v1")


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _add_blocks(net: nn.Module, side: int) -> None:
    """Append a copy of the last block to the stage at each bottleneck."""
    sites = find_bottlenecks(net, side)
    last = {site.channels: [*net.get_submodule(site.name).children()][-1] for site in sites}
    attach(net, lambda channels: copy.deepcopy(last[channels]), sites=sites)
