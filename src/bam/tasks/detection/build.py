"""The detector of a recipe, ready for training."""

import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from bam.data.files.options import A_SIDE, is_side
from bam.models import build
from bam.recipes import DetectionRecipe
from bam.surgery import attach
from bam.tasks.building import seed_attention, seed_network
from bam.tasks.detection.backbone import apply_batchnorm_policy, attach_to, load_backbone
from bam.tasks.detection.cost import input_size
from bam.tasks.detection.detectors import DETECTORS, DetectorModule
from bam.tasks.detection.precision import predict_in_float32
from bam.tasks.detection.weights import adapt_to_published, detector_normalization, load_detector
from bam.tensors import listed

#: Parameters of torchvision's detectors that are not options, because the parts are built here.
_PARTS = {
    "backbone", "network", "num_classes", "num_outputs", "head", "anchor_generator", "proposal_matcher",
    "rpn_anchor_generator", "rpn_head", "box_roi_pool", "box_head", "box_predictor", "options", "kwargs",
}  # fmt: skip


def build_detector(recipe: DetectionRecipe, num_classes: int, *, to_train: bool = True) -> DetectorModule:
    """The recipe's detector with its attention. The other initial weights do not depend on the attention.

    Args:
        recipe: names the detector; its seed draws the weights that are not pretrained.
        num_classes: classes of the data, without the background.
        to_train: start from the recipe's weights and apply its BatchNorm policy. Pass False if you will load weights.

    Returns: a module that takes a list of images (3, H, W) from 0 to 1, like torchvision's detectors.

    Raises:
        ValueError: if the recipe cannot be built, or weights do not fit.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    seed_network(recipe)
    detector, network = _assemble(recipe, num_classes)
    predict_in_float32(detector)
    if to_train and recipe.pretrained is not None:
        load_detector(detector, recipe.model, recipe.pretrained)
    seed_attention(recipe)
    sites = _attach(recipe, detector, network)
    if not to_train:
        return detector
    if recipe.backbone is not None:
        load_backbone(detector, network, DETECTORS[recipe.model].backbone, recipe.backbone, sites)
    expected = detector_normalization(recipe.model, recipe.pretrained, recipe.backbone)
    if expected and not {"image_mean", "image_std"} & recipe.model_options.keys():
        detector.transform.image_mean, detector.transform.image_std = map(list, expected)
    return apply_batchnorm_policy(detector, network, recipe.batchnorm)


def _assemble(recipe: DetectionRecipe, num_classes: int) -> tuple[DetectorModule, nn.Module]:
    """The detector without attention, and the network inside it."""
    if recipe.model not in DETECTORS:
        if recipe.model_options or recipe.backbone is not None:
            names = ", ".join(DETECTORS)
            raise ValueError(f"model_options and backbone are for {names}, not for {recipe.model}")
        detector = _of_library(recipe.model, num_classes + 1)
        return detector, detector.backbone
    entry, options = DETECTORS[recipe.model], recipe.model_options
    _check_options(options)
    from_scratch = entry.from_scratch if recipe.backbone is None else None
    network = from_scratch() if from_scratch else build(entry.backbone)
    try:
        detector = entry.assemble(network, num_classes + 1, **options)
    except TypeError as error:  # an unknown option
        raise ValueError(f"{recipe.model} with {options}: {error}") from None
    known = [*inspect.signature(type(detector)).parameters, *inspect.signature(entry.assemble).parameters]
    unknown = options.keys() - (set(known) - _PARTS)  # torchvision silently ignores some
    if unknown:
        raise ValueError(f"{recipe.model} with {options}: there is no option {listed(sorted(unknown))}")
    adapt_to_published(network, recipe.model, recipe.pretrained)
    return detector, network


def _check_options(options: Mapping[str, Any]) -> None:
    for name in options.keys() & {"min_size", "max_size", "size"}:
        value = options[name]
        sides = value if isinstance(value, list | tuple) and name == "min_size" else [value]
        if not sides or not all(is_side(side) for side in sides):
            raise ValueError(f"model_options: {name} must be {A_SIDE}, got {value!r}")
    for name in options.keys() & {"image_mean", "image_std"}:
        value = options[name]
        if not isinstance(value, list | tuple) or [type(v) in (int, float) for v in value] != [True] * 3:
            raise ValueError(f"model_options: {name} must be three numbers, got {value!r}")


def _of_library(name: str, num_outputs: int) -> DetectorModule:
    """A detector that is not in `DETECTORS`: another one of torchvision's, or a user's own."""
    try:
        detector: DetectorModule = build(name, num_outputs)
    except ValueError as error:
        near = difflib.get_close_matches(name, DETECTORS, n=3) or DETECTORS
        raise ValueError(f"{error}; detectors with similar names: {listed(near)}") from None
    if not isinstance(getattr(detector, "transform", None), GeneralizedRCNNTransform):
        raise ValueError(f"{name} is not a detector: choose {listed(DETECTORS)}, or another of torchvision's detectors")
    heads = getattr(detector, "roi_heads", None)
    outputs = _num_outputs(detector)
    if outputs not in (None, num_outputs):
        raise ValueError(
            f"{name} has {outputs} classes, but the data have {num_outputs} including the background: let the function "
            "take num_classes"
        )
    if heads is not None and (heads.has_mask() or heads.has_keypoint()):
        raise ValueError(f"{name} also learns masks or keypoints, and the data sets here have none")
    return detector


def _attach(recipe: DetectionRecipe, detector: DetectorModule, network: nn.Module) -> dict[str, str]:
    """Attach the recipe's attention; returns site name in the network -> site name in the detector."""
    if recipe.model not in DETECTORS:
        attach(detector, recipe.attention)
        return {}
    spec = recipe.attention
    if spec.is_none:
        return {}
    sites = DETECTORS[recipe.model].placed(spec)
    return attach_to(detector, network, dataclasses.replace(spec, sites=sites), input_size(detector))


def _num_outputs(detector: DetectorModule) -> int | None:
    """A detector's number of classes, including the background; None if it cannot be determined."""
    predictor: Any = getattr(getattr(detector, "roi_heads", None), "box_predictor", None)
    if hasattr(predictor, "cls_score"):
        return predictor.cls_score.out_features
    head = getattr(getattr(detector, "head", None), "classification_head", None)
    return getattr(head, "num_classes", getattr(head, "num_columns", None))
