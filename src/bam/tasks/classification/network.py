"""The network of a classification recipe, ready to be trained."""

import torch
from torch import Tensor, nn

from bam.data import LabelledImages
from bam.models import build
from bam.models.pretrained import classifier_name, classifier_names, load_pretrained
from bam.models.weights import normalization
from bam.recipes import ClassificationRecipe
from bam.surgery import attach, freeze_backbone


def build_model(
    recipe: ClassificationRecipe, num_classes: int, image_size: tuple[int, int], *, to_train: bool = True
) -> nn.Module:
    """The recipe's network with its attention. The backbone's initial weights do not depend on the attention.

    Args:
        recipe: which network; its seed draws the weights that are not pretrained.
        num_classes: outputs of the network.
        image_size: height and width at which the sites are looked for.
        to_train: start from the recipe's pretrained weights and freeze what it freezes; False where weights will be
            loaded anyway, and the pretrained ones need not be there.

    Raises:
        ValueError: for a recipe that cannot be built; what `load_pretrained` raises.
    """
    torch.manual_seed(recipe.seed)
    model = build(recipe.model, num_classes)
    if to_train and recipe.pretrained is not None:
        model = load_pretrained(model, recipe.model, recipe.pretrained, num_classes)
    trainable: list[str] = []
    if to_train and recipe.freeze_backbone:
        classifier_name(model, num_classes)  # raises if there is none
        trainable = classifier_names(model, num_classes)
    torch.manual_seed(recipe.seed + 1)
    attach(model, recipe.attention, image=image_size)
    return freeze_backbone(model, trainable=trainable) if trainable else model


def pixel_normalization(recipe: ClassificationRecipe, train: LabelledImages) -> tuple[Tensor, Tensor]:
    """Mean and deviation that images are normalised by, on the scale 0 to 255: float32 (3,) each.

    They are those that the recipe's pretrained weights were trained with, where that is known and its data options say
    nothing else; otherwise those of the training set.
    """
    known = None
    if recipe.pretrained is not None and not {"mean", "std"} & recipe.data_options.keys():
        known = normalization(recipe.model, recipe.pretrained)
    if known is None:
        return train.normalization()
    return 255 * torch.tensor(known[0]), 255 * torch.tensor(known[1])
