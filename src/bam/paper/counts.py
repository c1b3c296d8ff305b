"""What this package counts for a row of the paper's tables."""

import copy
import functools
from dataclasses import dataclass

import torch
from torch import nn

from bam.attention import BAM
from bam.costs import cost
from bam.models import build
from bam.models.residual import stride_first
from bam.paper.tables import NOTES, Row
from bam.placement import find_bottlenecks
from bam.recipes import RECIPES, Recipe, variant
from bam.surgery import attach, attended


@dataclass(frozen=True)
class Counts:
    """Parameters and multiply-adds of a row's network, with BAM in the paper's layout."""

    params: int
    released_params: int  #: with BAM in the layout of the authors' code
    macs: int  #: with the strides of the paper's network
    modern_macs: int  #: with the strides of torchvision's bottleneck blocks; the same for networks without such blocks


def count(row: Row) -> Counts:
    """Build the row's network (on the meta device: nothing is computed) and count."""
    return _count(row.recipe, row.variant)


@functools.cache
def _count(name: str, text: str) -> Counts:
    recipe = RECIPES[name]()
    if recipe.task == "detection":
        return _count_detector(variant(recipe, text))
    side = recipe.data_options.get("size", 32)
    with torch.device("meta"):
        net = build(_modern(recipe.model))
        if text == "block":
            _add_blocks(net, side)
        elif text != "none":
            recipe = variant(recipe, text)
            attach(net, recipe.attention, sites=recipe.sites, image=side, **recipe.attention_options)
        more = _more_than_released(net, recipe)
    modern = cost(net, side)
    macs = modern.macs if recipe.model == _modern(recipe.model) else cost(stride_first(net), side).macs
    return Counts(modern.params, modern.params - more, macs, modern.macs)


def _count_detector(recipe: Recipe) -> Counts:
    """Strides are torchvision's; the row's image size is the detector's own."""
    from bam.data.boxes import VOC_CLASSES
    from bam.tasks.detection.build import build_detector
    from bam.tasks.detection.cost import detector_cost

    model = build_detector(recipe.replace(backbone=None), 80 if recipe.data == "coco" else len(VOC_CLASSES))
    counted = detector_cost(model)
    return Counts(counted.params, counted.params - _more_than_released(model, recipe), counted.macs, counted.macs)


def _more_than_released(net: nn.Module, recipe: Recipe) -> int:
    """How many parameters more the network's BAMs have than in the layout of the authors' code."""
    options = recipe.attention_options | {"layout": "released"}
    modules = [module for module in attended(net).values() if isinstance(module, BAM)]
    return sum(_params(module) - _params(BAM(module.channels, **options)) for module in modules)


def unmet(row: Row, counts: Counts) -> dict[str, str]:
    """Printed digits that the counts do not round to -> the reason, as far as one is known.

    Raises:
        KeyError: for one without an entry in `NOTES`.
    """
    pairs = ((row.params, counts.params / 1e6), (row.gflops, counts.macs / 1e9))
    differing = [printed for printed, value in pairs if printed and not rounds_to(printed, value)]
    return {printed: NOTES[row.recipe, row.variant, printed] for printed in differing}


def rounds_to(printed: str, value: float) -> bool:
    """Whether `value` is printed so."""
    return f"{value:.{len(printed.partition('.')[2])}f}" == printed


def _modern(model: str) -> str:
    """The same network with strides on the 3x3 convolution of bottleneck blocks, by its name; itself without such."""
    return model.removeprefix("paper/") if model.startswith("paper/res") else model.removesuffix("_v1")


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _add_blocks(net: nn.Module, side: int) -> None:
    """At each bottleneck, after a stage, put one more block like the stage's last."""
    sites = find_bottlenecks(net, side)
    last = {site.channels: net.get_submodule(site.name)[-1] for site in sites}  # type: ignore[index]  # stages are sequences
    attach(net, lambda channels: copy.deepcopy(last[channels]), sites=sites)
