"""Variants of a recipe: its attention and a few fields changed by a text such as "bam(dilation=1)"."""

import re

from bam.attention.spec import AttentionSpec
from bam.recipes.recipe import Recipe


def variant(recipe: Recipe, text: str) -> Recipe:
    """`recipe` with the attention that `text` names; what the text leaves out stays as the recipe has it.

    Among the options may be the recipe's own `VARIANT_FIELDS`, e.g. none(backbone=runs/plain).

    Raises:
        ValueError: if the text cannot be read, or gives options to a network without attention.
    """
    alone = AttentionSpec.parse(text)
    fields = {name: alone.options[name] for name in recipe.VARIANT_FIELDS if name in alone.options}
    if alone.is_none and (alone.options.keys() - fields.keys() or alone.sites or alone.identity):
        raise ValueError(f"attention {text!r}: a network without attention has no options")
    changed = recipe.replace(attention=text, **fields)
    options = {name: value for name, value in changed.attention.options.items() if name not in fields}
    return changed.replace(attention_options=options)


def folder_name(text: str) -> str:
    """The variant as a part of a file name: "bam(dilation=1)" -> "bam-dilation=1"."""
    return re.sub(r"[^\w=.-]+", "-", text).strip("-")
