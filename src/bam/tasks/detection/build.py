"""The detector of a recipe, ready to be trained."""

import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from bam.models import build
from bam.recipes import DetectionRecipe
from bam.surgery import attach
from bam.tasks.detection.backbone import apply_batchnorm_policy, attach_to, load_backbone
from bam.tasks.detection.cost import input_size
from bam.tasks.detection.detectors import DETECTORS, DetectorModule
from bam.tasks.detection.precision import predict_in_float32
from bam.tasks.detection.weights import adapt_to_published, load_detector, normalization
from bam.tensors import listed

#: Parameters of torchvision's detectors that are no options: parts that are made here.
_PARTS = {
    "backbone", "network", "num_classes", "num_outputs", "head", "anchor_generator", "proposal_matcher",
    "rpn_anchor_generator", "rpn_head", "box_roi_pool", "box_head", "box_predictor", "options", "kwargs",
}  # fmt: skip


def build_detector(recipe: DetectionRecipe, num_classes: int, *, to_train: bool = True) -> DetectorModule:
    """The recipe's detector with its attention. The other initial weights do not depend on the attention.

    Args:
        recipe: which detector; its seed draws the weights that are not pretrained.
        num_classes: of the data, without the background.
        to_train: start from the recipe's weights and apply its BatchNorm policy; False where weights will be loaded
            anyway.

    Returns: a module that takes a list of images (3, H, W) from 0 to 1, as torchvision's detectors do.

    Raises:
        ValueError: for a recipe that cannot be built, or weights that do not fit.
    """
    torch.manual_seed(recipe.seed)
    detector, network = _assemble(recipe, num_classes)
    predict_in_float32(detector)
    if to_train and recipe.pretrained is not None:
        load_detector(detector, recipe.model, recipe.pretrained)
    torch.manual_seed(recipe.seed + 1)
    sites = _attach(recipe, detector, network)
    if not to_train:
        return detector
    if recipe.backbone is not None:
        load_backbone(detector, network, DETECTORS[recipe.model].backbone, recipe.backbone, sites)
    known = normalization(recipe.model, recipe.pretrained, recipe.backbone)
    if known and not {"image_mean", "image_std"} & recipe.model_options.keys():
        detector.transform.image_mean, detector.transform.image_std = map(list, known)
    return apply_batchnorm_policy(detector, network, recipe.batchnorm)


def _assemble(recipe: DetectionRecipe, num_classes: int) -> tuple[DetectorModule, nn.Module]:
    """The plain detector and the network inside it."""
    if recipe.model not in DETECTORS:
        if recipe.model_options or recipe.backbone is not None:
            names = ", ".join(DETECTORS)
            raise ValueError(f"model_options and backbone are for {names}; {recipe.model} is built as its library does")
        detector = _of_library(recipe.model, num_classes + 1)
        return detector, detector.backbone
    entry, options = DETECTORS[recipe.model], recipe.model_options
    _check_options(options)
    alone = entry.from_scratch if recipe.backbone is None else None
    network = alone() if alone else build(entry.backbone)
    try:
        detector = entry.assemble(network, num_classes + 1, **options)
    except TypeError as error:  # Python's words for options that a detector does not take
        raise ValueError(f"{recipe.model} with {options}: {error}") from None
    known = [*inspect.signature(type(detector)).parameters, *inspect.signature(entry.assemble).parameters]
    unknown = options.keys() - (set(known) - _PARTS)  # torchvision passes over them in silence
    if unknown:
        raise ValueError(f"{recipe.model} with {options}: there is no option {listed(sorted(unknown))}")
    adapt_to_published(network, recipe.model, recipe.pretrained)
    return detector, network


def _check_options(options: Mapping[str, Any]) -> None:
    for name in options.keys() & {"min_size", "max_size", "size"}:
        value = options[name]
        several = value if isinstance(value, list | tuple) and name == "min_size" else [value]
        if not several or not all(type(side) is int and side > 0 for side in several):
            raise ValueError(f"model_options: {name} must be a number of pixels, got {value!r}")
    for name in options.keys() & {"image_mean", "image_std"}:
        value = options[name]
        if not isinstance(value, list | tuple) or [type(v) in (int, float) for v in value] != [True] * 3:
            raise ValueError(f"model_options: {name} must be three numbers, got {value!r}")


def _of_library(name: str, num_outputs: int) -> DetectorModule:
    """A detector that is not in the table: another of torchvision's, or somebody's own."""
    try:
        detector: DetectorModule = build(name, num_outputs)
    except ValueError as error:
        near = difflib.get_close_matches(name, DETECTORS, n=3) or DETECTORS
        raise ValueError(f"{error}; for detection, near: {listed(near)}") from None
    if not isinstance(getattr(detector, "transform", None), GeneralizedRCNNTransform):
        raise ValueError(f"{name} is no detector: choose {listed(DETECTORS)}, or another of torchvision's")
    heads = getattr(detector, "roi_heads", None)
    outputs = _num_outputs(detector)
    if outputs not in (None, num_outputs):
        raise ValueError(
            f"{name} tells {outputs} classes apart, and the data have {num_outputs} with the background: let the "
            "function take num_classes"
        )
    if heads is not None and (heads.has_mask() or heads.has_keypoint()):
        raise ValueError(f"{name} learns masks or keypoints, which the data sets here do not have")
    return detector


def _attach(recipe: DetectionRecipe, detector: DetectorModule, network: nn.Module) -> dict[str, str]:
    """Attach the recipe's attention; each site's name in the detector by its name in the network inside."""
    if recipe.model not in DETECTORS:
        attach(detector, recipe.attention)
        return {}
    spec = recipe.attention
    sites = spec.sites or DETECTORS[recipe.model].sites
    return attach_to(detector, network, dataclasses.replace(spec, sites=sites), input_size(detector))


def _num_outputs(detector: DetectorModule) -> int | None:
    """How many classes a detector tells apart, the background included, where that can be seen."""
    predictor: Any = getattr(getattr(detector, "roi_heads", None), "box_predictor", None)
    if hasattr(predictor, "cls_score"):
        return predictor.cls_score.out_features
    head = getattr(getattr(detector, "head", None), "classification_head", None)
    return getattr(head, "num_classes", getattr(head, "num_columns", None))
