"""The network of a classification recipe, ready for training."""

import torch
from torch import Tensor, nn

from bam.data import LabelledImages
from bam.models import build
from bam.models.pretrained import classifier_name, classifier_names, load_pretrained
from bam.models.weights import normalization
from bam.recipes import ClassificationRecipe
from bam.surgery import attach, freeze_backbone
from bam.tasks.task import seed_attention, seed_network


def build_model(
    recipe: ClassificationRecipe, num_classes: int, image_size: tuple[int, int], *, to_train: bool = True
) -> nn.Module:
    """The recipe's network with its attention. The backbone's initial weights do not depend on the attention.

    Args:
        recipe: names the network; its seed draws the weights that are not pretrained.
        num_classes: outputs of the network.
        image_size: height and width at which the sites are measured.
        to_train: start from the recipe's pretrained weights, and freeze the layers it freezes. Pass False if you will
            load weights: the pretrained ones are then not read.

    Raises:
        ValueError: if the recipe cannot be built; also the errors of `load_pretrained`.
    """
    seed_network(recipe)
    model = build(recipe.model, num_classes)
    if to_train and recipe.pretrained is not None:
        model = load_pretrained(model, recipe.model, recipe.pretrained, num_classes)
    trainable: list[str] = []
    if to_train and recipe.freeze_backbone:
        classifier_name(model, num_classes)  # raises if the network has no classifier
        trainable = classifier_names(model, num_classes)
    seed_attention(recipe)
    attach(model, recipe.attention, image=image_size)
    return freeze_backbone(model, trainable=trainable) if trainable else model


def pixel_normalization(recipe: ClassificationRecipe, train: LabelledImages) -> tuple[Tensor, Tensor]:
    """Per-channel mean and standard deviation for normalising images, on the scale 0 to 255: float32 (3,) each.

    Uses the values that the recipe's pretrained weights were trained with, if known and not overridden by the data
    options; otherwise those of the training set.
    """
    known = None
    if recipe.pretrained is not None and not {"mean", "std"} & recipe.data_options.keys():
        known = normalization(recipe.model, recipe.pretrained)
    if known is None:
        return train.normalization()
    return 255 * torch.tensor(known[0]), 255 * torch.tensor(known[1])
