"""The detector of a recipe, ready to be trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from bam.costs import Cost, cost
from bam.detection.backbone import attach_to, load_backbone, normalize
from bam.detection.detectors import DETECTORS, DetectorModule
from bam.models import build
from bam.models.weights import normalization, read_weights
from bam.recipes import Recipe
from bam.surgery import attach
from bam.tensors import check_fit, is_like

#: What torchvision's published detectors had their images normalised by, where it is not ImageNet's mean and deviation.
_PUBLISHED = {
    "ssd300_vgg16": ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)),
    "ssdlite320_mobilenet_v3_large": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
_PROPOSALS = 1000  #: regions of Faster R-CNN whose multiply-adds are counted


def build_detector(
    recipe: Recipe, num_classes: int, *, to_train: bool = True, num_processes: int = 1
) -> DetectorModule:
    """The recipe's detector with its attention. The other initial weights do not depend on the attention.

    Args:
        recipe: which detector; its seed draws the weights that are not pretrained.
        num_classes: of the data, without the background.
        to_train: start from the recipe's weights and apply its normalisation policy; False where weights will be
            loaded anyway.
        num_processes: that train.

    Returns: a module that takes a list of images (3, H, W) from 0 to 1, as torchvision's detectors do.

    Raises:
        ValueError: for a recipe that cannot be built, or weights that do not fit.
    """
    torch.manual_seed(recipe.seed)
    detector, network = _assemble(recipe, num_classes)
    name = DETECTORS[recipe.model].backbone if recipe.model in DETECTORS else ""
    if to_train and recipe.pretrained is not None:
        _load_detector(detector, recipe.model, recipe.pretrained)
    sites = {} if recipe.attention == "none" else _attach(recipe, detector, network)
    if to_train and recipe.backbone is not None:
        load_backbone(detector, network, name, recipe.backbone, sites)
        detector.transform.image_mean, detector.transform.image_std = map(
            list, normalization(name, recipe.backbone) or (detector.transform.image_mean, detector.transform.image_std)
        )
    return normalize(detector, network, recipe.normalization, num_processes) if to_train else detector


def _assemble(recipe: Recipe, num_classes: int) -> tuple[DetectorModule, nn.Module]:
    """The plain detector and the network inside it."""
    options = dict(recipe.model_options)
    if recipe.pretrained is not None and recipe.model in _PUBLISHED:
        options = dict(zip(("image_mean", "image_std"), map(list, _PUBLISHED[recipe.model]), strict=True)) | options
    if recipe.model in DETECTORS:
        known = DETECTORS[recipe.model]
        network = build(known.backbone)
        try:
            return known.assemble(network, num_classes + 1, **options), network
        except TypeError as error:  # what Python says of options that a detector does not take
            raise ValueError(f"{recipe.model} with {recipe.model_options}: {error}") from None
    if recipe.model_options or recipe.backbone is not None:
        names = ", ".join(DETECTORS)
        raise ValueError(f"model_options and backbone are for {names}; {recipe.model} is built as its library does")
    detector: DetectorModule = build(recipe.model, num_classes + 1)
    if not isinstance(getattr(detector, "transform", None), GeneralizedRCNNTransform):
        raise ValueError(f"{recipe.model} is no detector: choose {', '.join(DETECTORS)}, or another of torchvision's")
    heads = getattr(detector, "roi_heads", None)
    if heads is not None and (heads.has_mask() or heads.has_keypoint()):
        raise ValueError(f"{recipe.model} learns masks or keypoints, which the data sets here do not have")
    return detector, detector.backbone


def _attach(recipe: Recipe, detector: DetectorModule, network: nn.Module) -> dict[str, str]:
    torch.manual_seed(recipe.seed + 1)
    options = {"identity": recipe.identity} | recipe.attention_options
    try:
        if recipe.model not in DETECTORS:
            attach(detector, recipe.attention, sites=recipe.sites, **options)
            return {}
        sites = recipe.sites or DETECTORS[recipe.model].sites
        return attach_to(detector, network, recipe.attention, sites, input_size(detector), **options)
    except TypeError as error:  # what Python says of options that a module does not take
        raise ValueError(f"attention {recipe.attention} with {recipe.attention_options}: {error}") from None


def _load_detector(detector: DetectorModule, name: str, weights: str) -> None:
    """Load a whole detector; predictions for other classes than these keep their random weights."""
    source, given = read_weights(name, weights)
    own = detector.state_dict()
    heads = [key for key in own if key.startswith(("head.", "roi_heads.box_predictor."))]
    other = [key for key in heads if key in given and not is_like(given[key], own[key])]
    values = {key: value for key, value in given.items() if key not in other} | {key: own[key] for key in other}
    check_fit(own, values, source, name)
    detector.load_state_dict(values)


def input_size(detector: DetectorModule) -> tuple[int, int]:
    """Height and width that stand for the images as a detector resizes them; the longer side is 4/3 of the shorter."""
    transform = detector.transform
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return height, width
    short = transform.min_size[-1]
    long = min(short * 4 / 3, transform.max_size)
    return _rounded_up(short), _rounded_up(long)


def _rounded_up(side: float) -> int:
    return -(-round(side) // 32) * 32


def detector_cost(detector: DetectorModule) -> Cost:
    """Parameters, and multiply-adds of everything that is computed densely, for one image of `input_size`.

    The second stage of Faster R-CNN is counted on 1000 regions.
    """
    dense = cost(_Dense(detector), (3, *input_size(detector)))
    return Cost(sum(p.numel() for p in detector.parameters()), dense.macs)


class _Dense(nn.Module):
    """A detector without what depends on values: selecting, matching, suppressing."""

    def __init__(self, detector: DetectorModule) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Any:
        found: Tensor | Mapping[str, Tensor] | Sequence[Tensor] = self.detector.backbone(images)
        maps = list(found.values()) if isinstance(found, Mapping) else [found] if isinstance(found, Tensor) else found
        if not hasattr(self.detector, "rpn"):
            return self.detector.head(maps)
        heads = self.detector.roi_heads
        size = heads.box_roi_pool.output_size
        regions = images.new_zeros(_PROPOSALS, maps[0].shape[1], *size)
        return self.detector.rpn.head(maps), heads.box_predictor(heads.box_head(regions))
