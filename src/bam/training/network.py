"""The network of a recipe, ready to be trained."""

import torch
from torch import nn

from bam.models import build
from bam.models.pretrained import classifier_name, load_pretrained
from bam.recipes import Recipe
from bam.surgery import attach, freeze_backbone


def build_model(recipe: Recipe, num_classes: int, image_size: tuple[int, int], *, to_train: bool = True) -> nn.Module:
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
    trainable = [classifier_name(model, num_classes)] if to_train and recipe.freeze_backbone else []
    if recipe.attention != "none":
        torch.manual_seed(recipe.seed + 1)
        options = {"sites": recipe.sites, "image": image_size, "identity": recipe.identity} | recipe.attention_options
        attach(model, recipe.attention, **options)
    return freeze_backbone(model, trainable=trainable) if trainable else model
