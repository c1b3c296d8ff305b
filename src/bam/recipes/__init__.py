"""Recipes by name: functions that return a complete, frozen `Recipe`."""

from collections.abc import Callable
from pathlib import Path

from bam.recipes import cifar100, coco, digits, folder, imagenet, voc, vqa
from bam.recipes.classification import ClassificationRecipe
from bam.recipes.detection import DetectionRecipe
from bam.recipes.recipe import Recipe
from bam.recipes.running import RunOptions
from bam.recipes.variants import folder_name, variant
from bam.recipes.vqa import VqaRecipe

#: Name -> function that returns the recipe; its docstring says what to expect.
RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits/small": digits.small,
    "digits/full": digits.full,
    "folder/finetune": folder.finetune,
    "cifar100/resnet20": cifar100.resnet20,
    "cifar100/resnet20_fast": cifar100.resnet20_fast,
    "cifar100/resnet18": cifar100.resnet18,
    "cifar100/resnet50": cifar100.resnet50,
    "cifar100/resnet101": cifar100.resnet101,
    "cifar100/preresnet110": cifar100.preresnet110,
    "cifar100/wide_resnet28_8": cifar100.wide_resnet28_8,
    "cifar100/wide_resnet28_10": cifar100.wide_resnet28_10,
    "cifar100/resnext29_8x64d": cifar100.resnext29_8x64d,
    "cifar100/resnext29_16x64d": cifar100.resnext29_16x64d,
    "cifar100/densenet100_bc": cifar100.densenet100_bc,
    "imagenet/resnet18": imagenet.resnet18,
    "imagenet/resnet50": imagenet.resnet50,
    "imagenet/resnet101": imagenet.resnet101,
    "imagenet/wide_resnet18_1.5": imagenet.wide_resnet18_1_5,
    "imagenet/wide_resnet18_2.0": imagenet.wide_resnet18_2_0,
    "imagenet/resnext50_32x4d": imagenet.resnext50_32x4d,
    "imagenet/mobilenet": imagenet.mobilenet,
    "imagenet/mobilenet_0.7": imagenet.mobilenet_0_7,
    "imagenet/mobilenet_192": imagenet.mobilenet_192,
    "imagenet/squeezenet1_1": imagenet.squeezenet1_1,
    "digits/detection": digits.detection,
    "voc2007/overfit": voc.overfit,
    "voc2007/small": voc.small,
    "voc2007/ssd300_vgg16": voc.ssd300_vgg16,
    "voc2007/stairnet300_vgg16": voc.stairnet300_vgg16,
    "voc2007/ssd300_mobilenet": voc.ssd300_mobilenet,
    "voc2007/stairnet300_mobilenet": voc.stairnet300_mobilenet,
    "coco/small": coco.small,
    "coco/fasterrcnn_resnet50_fpn": coco.fasterrcnn_resnet50_fpn,
    "coco/fasterrcnn_resnet101_fpn": coco.fasterrcnn_resnet101_fpn,
    "vqa/digits": digits.vqa,
    "vqa2/san": vqa.san,
}


def load(name: str) -> Recipe:
    """Load the recipe with this name in `RECIPES`, or from the YAML file at this path.

    Raises:
        ValueError: for an unknown name, or a file that is not a recipe.
        FileNotFoundError: for a missing YAML file.
    """
    if name in RECIPES:
        return RECIPES[name]().replace(name=name)
    if name.endswith((".yaml", ".yml")):
        return Recipe.from_yaml(Path(name))
    raise ValueError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}, or the path of a .yaml file")


__all__ = [
    "RECIPES", "ClassificationRecipe", "DetectionRecipe", "Recipe", "RunOptions", "VqaRecipe",
    "folder_name", "load", "variant",
]  # fmt: skip
