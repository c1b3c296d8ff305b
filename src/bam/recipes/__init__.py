"""Recipes by name: functions that return a complete, frozen `Recipe`."""

from collections.abc import Callable
from pathlib import Path

from bam.recipes import cifar100, digits
from bam.recipes.recipe import Recipe
from bam.recipes.variants import folder_name, split_variants, variant

#: Name -> function returning the recipe; its docstring says what to expect of it.
RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits/small": digits.small,
    "digits/full": digits.full,
    "cifar100/resnet20": cifar100.resnet20,
    "cifar100/resnet18": cifar100.resnet18,
    "cifar100/resnet50": cifar100.resnet50,
}


def load(name: str) -> Recipe:
    """The recipe of that name in `RECIPES`, or read from a YAML file at that path.

    Raises:
        ValueError: for an unknown name or a file that is no recipe.
        FileNotFoundError: for a YAML file that is not there.
    """
    if name in RECIPES:
        return RECIPES[name]().replace(name=name)
    if name.endswith((".yaml", ".yml")):
        return Recipe.from_yaml(Path(name))
    raise ValueError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}, or the path of a .yaml file")


__all__ = ["RECIPES", "Recipe", "folder_name", "load", "split_variants", "variant"]
