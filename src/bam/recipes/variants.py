"""Variants of a recipe: a string such as "bam(dilation=1)" changes its attention and a few fields."""

import re

from bam.attention.spec import AttentionSpec
from bam.recipes.recipe import Recipe


def variant(recipe: Recipe, text: str) -> Recipe:
    """`recipe` with the attention that `text` describes; parts that `text` leaves out stay as in the recipe.

    The options may include the recipe's `VARIANT_FIELDS`, e.g. none(backbone=runs/plain).

    Raises:
        ValueError: if the text is invalid, or "none" has options.
    """
    spec = AttentionSpec.parse(text)
    names = [name for kind in Recipe.TASKS.values() for name in kind.VARIANT_FIELDS]
    fields = {name: spec.options[name] for name in names if name in spec.options}
    if spec.is_none and (spec.options.keys() - fields.keys() or spec.sites or spec.identity):
        raise ValueError(f"attention {text!r}: a network without attention has no options")
    changed = recipe.replace(attention=text, **fields)
    options = {name: value for name, value in changed.attention.options.items() if name not in fields}
    return changed.replace(attention_options=options)


def folder_name(text: str) -> str:
    """The variant as part of a folder name: "bam(dilation=1)" -> "bam-dilation=1"."""
    return re.sub(r"[^\w=.-]+", "-", text).strip("-")
