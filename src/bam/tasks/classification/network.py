"""The network of a classification recipe, ready for training."""

from typing import Any

import torch
from torch import Tensor, nn

from bam.attention.batchnorm import freeze_statistics
from bam.dryrun import dry_run, image_shape
from bam.models import build
from bam.models.pretrained import classifier_name, classifier_names, load_pretrained
from bam.private import NormBase
from bam.recipes import ClassificationRecipe
from bam.surgery import attach, freeze_backbone
from bam.tasks.building import seed_attention, seed_network

_RGB = 3  #: channels


def build_model(
    recipe: ClassificationRecipe, num_classes: int, image_size: tuple[int, int], *, to_train: bool = True
) -> nn.Module:
    """The recipe's network with its attention. The backbone's initial weights do not depend on the attention.

    Args:
        recipe: names the network; its seed draws the weights that are not pretrained.
        num_classes: outputs of the network.
        image_size: height and width at which the sites are measured.
        to_train: start from the recipe's pretrained weights, and freeze the layers it freezes. Pass False if you will
            load other weights: the pretrained ones are then not read.

    Raises:
        ValueError: if the recipe cannot be built; also the errors of `load_pretrained`.
    """
    seed_network(recipe)
    model = build(recipe.model, num_classes, drop_path=recipe.drop_path)
    if to_train and recipe.pretrained is not None:
        _start_from_pretrained(model, recipe, num_classes)
    if to_train:
        _refuse_other_channels(model, recipe.model, image_size)
    trainable: list[str] = []
    if to_train and recipe.freeze_backbone:
        classifier_name(model, num_classes)  # raises if the network has no classifier
        trainable = classifier_names(model, num_classes)
    seed_attention(recipe)
    attach(model, recipe.attention, image=image_size)
    return freeze_backbone(model, trainable=trainable) if trainable else model


def _refuse_other_channels(model: nn.Module, name: str, image_size: tuple[int, int]) -> None:
    try:
        channels = image_shape(model, image_size)[1]
    except ValueError:  # lazy layers: attaching reports them
        return
    if channels == _RGB:
        return
    try:
        dry_run(model, (_RGB, *image_size))  # it may reduce the channels itself
    except ValueError:
        raise ValueError(
            f"{name}: its first convolution takes {channels} channel{'s' * (channels > 1)}, but data sets serve RGB "
            f"images: let it take {_RGB} channels, or reduce them in the forward pass: images.mean(1, keepdim=True)"
        ) from None


def _start_from_pretrained(model: nn.Module, recipe: ClassificationRecipe, num_classes: int) -> None:
    """Load the recipe's pretrained weights; prepare a new classifier and the BatchNorms as the recipe says."""
    assert recipe.pretrained is not None
    heads = {name: model.get_submodule(name) for name in classifier_names(model, num_classes)}
    before = {name: next(head.parameters()).clone() for name, head in heads.items()}
    load_pretrained(model, recipe.model, recipe.pretrained, num_classes)
    for name, head in heads.items():
        is_loaded = not torch.equal(before[name], next(head.parameters()))
        if recipe.new_classifier != "library" and not is_loaded:
            _start_small(head)
    for module in model.modules():
        if recipe.frozen_statistics and isinstance(module, NormBase):
            freeze_statistics(module)


def _start_small(head: nn.Module) -> None:
    """Set the weights to zero, or almost in convolutions, so that the first step leaves pretrained features alone.

    A ReLU may follow a convolution (SqueezeNet); with zero weights, no gradient would ever pass it.
    """
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    if isinstance(head, nn.Conv2d):
        nn.init.normal_(head.weight, std=0.01)


def class_logits(output: Any) -> Tensor:
    """The class logits (N, num_classes) in a network's output; drops the auxiliary ones of GoogLeNet and Inception."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        kind = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"the network returns {kind}, not class logits (N, classes): it is not an image classifier")
    return logits
