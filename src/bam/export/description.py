"""Describe a network and the images it expects, from a caller, a run or a saved network, and fill in the rest."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from bam.dryrun import image_shape
from bam.export.config import IMAGENET, NetworkConfig, config_of, sites_of
from bam.export.rebuild import outputs
from bam.records import Record

#: Side in pixels up to which networks see whole images, as on CIFAR; larger images are cropped as for ImageNet.
LARGEST_UNCROPPED = 64


class NetworkDescription(TypedDict, total=False):
    """The fields that describe a network, see `save_pretrained`; None is the same as leaving a field out."""

    backbone: str | None
    num_classes: int | None
    classes: Sequence[str] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    image_size: int | Sequence[int] | None
    resize: int | None


def describe_saved(model: nn.Module) -> NetworkDescription:
    """The description in a loaded network's `bam_config`; empty for any other network."""
    config = config_of(model)
    if config is None:
        return {}
    return {
        "backbone": config.backbone,
        "num_classes": config.num_classes,
        "classes": config.classes,
        "mean": config.mean,
        "std": config.std,
        "image_size": config.image_size,
        "resize": config.resize,
    }


def describe_named(
    model: nn.Module, backbone: str, num_classes: int | None = None, weights: str | None = None
) -> NetworkDescription:
    """The description of a network built by name, with its own image size and its weights' normalisation.

    Without weights, or if the weights do not record a normalisation, ImageNet's is used.
    """
    from bam.models.weights import normalization  # imports torchvision

    known = normalization(backbone, weights) if weights else None
    side = image_shape(model)[-1]
    crop = IMAGENET["resize"] / IMAGENET["image_size"][0] if side > LARGEST_UNCROPPED else 1
    return {
        "backbone": backbone,
        "num_classes": num_classes,
        "mean": known.mean if known else IMAGENET["mean"],
        "std": known.std if known else IMAGENET["std"],
        "image_size": (side, side),
        "resize": round(side * crop),
    }


def describe_run(record: Record) -> NetworkDescription:
    """The description of a run's network, from the run's record.

    Raises:
        ValueError: if the record has no normalisation, as in early versions of bam.
    """
    from bam.training.trained import preprocessing_of

    expected = preprocessing_of(record)
    return {
        "backbone": record.recipe["model"],
        "num_classes": record.num_classes,
        "classes": record.classes or None,
        "mean": expected.mean,
        "std": expected.std,
        "image_size": expected.image_size,
        "resize": expected.resize,
    }


def at_image_size(description: NetworkDescription, side: int) -> NetworkDescription:
    """The description changed to images of `side` x `side` pixels; the crop stays the same share of the image."""
    resize, size = description.get("resize"), description.get("image_size")
    if resize is None or size is None:
        return {**description, "image_size": side}
    height = size if isinstance(size, int) else size[0]
    return {**description, "image_size": side, "resize": round(side * resize / height)}


def complete(model: nn.Module, description: NetworkDescription) -> tuple[NetworkConfig, Tensor]:
    """The configuration of `model`, and noise (1, C, H, W) in the shape of the images it expects.

    Missing fields come from the model's `bam_config`, then from its outputs and image size.

    Raises:
        ValueError: naming the field, if a field is missing, invalid or does not match the model.
    """
    stated: dict[str, Any] = {field: value for field, value in description.items() if value is not None}
    if "classes" in stated:
        stated.setdefault("num_classes", len(stated["classes"]))
    if "image_size" not in stated and config_of(model) is None:
        stated["image_size"] = image_shape(model)[2:]
    if "image_size" in stated:
        size = stated["image_size"]
        stated["image_size"] = (size, size) if isinstance(size, int) else tuple(size)
        stated["resize"] = stated.get("resize") or max(stated["image_size"])
    fields: dict[str, Any] = dict.fromkeys(NetworkDescription.__annotations__) | describe_saved(model) | stated
    missing = [field for field in ("backbone", "mean", "std") if fields[field] is None]
    if missing:
        raise ValueError(f"pass {'=, '.join(missing)}=: only networks loaded by bam.export.from_pretrained have them")
    for field in ("mean", "std"):
        fields[field] = tuple(float(value) for value in fields[field])
    if fields["classes"] is not None and not isinstance(fields["classes"], str):
        fields["classes"] = tuple(fields["classes"])
    config = NetworkConfig(**fields, sites=sites_of(model))
    images = torch.randn(1, len(config.mean), *config.image_size, generator=torch.Generator().manual_seed(0))
    return _with_num_classes(config, outputs(model, images)), images


def _with_num_classes(config: NetworkConfig, leaves: list[Tensor]) -> NetworkConfig:
    """The configuration with num_classes filled in, if the network's output is one tensor (N, classes)."""
    if len(leaves) != 1 or leaves[0].dim() != 2:
        return config
    count = leaves[0].shape[1]
    if config.classes is not None and count != len(config.classes):
        raise ValueError(f"classes: the model has {count} outputs, got {len(config.classes)} names")
    return dataclasses.replace(config, num_classes=count if config.num_classes is None else config.num_classes)
