"""Variants of a recipe in a few characters: "none", "bam", "bam(dilation=1)", "se(sites=every block)"."""

import re
from typing import Any

from bam.recipes.recipe import Recipe

_COMMA_OUTSIDE_ROUND = r",(?![^(]*\))"
_COMMA_OUTSIDE_SQUARE = r",(?![^\[]*\])"
_FIELDS = ("sites", "identity", "backbone")  # of the recipe; everything else is an option of the attention module


def split_variants(text: str) -> list[str]:
    """The variants in "none,bam,bam(reduction=8,dilation=1)"; commas in brackets separate options.

    Raises:
        ValueError: if it names none, or brackets do not match.
    """
    variants = [" ".join(word.split()) for word in re.split(_COMMA_OUTSIDE_ROUND, text)]
    if not all(variants):
        raise ValueError(f"attention: variants separated by commas, got {text!r}")
    return variants


def variant(recipe: Recipe, text: str) -> Recipe:
    """`recipe` with the attention that `text` names: NAME or NAME(OPTION=VALUE,...).

    Options are those of the attention module, over the recipe's `attention_options`, and the recipe's own fields
    `sites`, `identity` and `backbone`, which "none" may have, too. Values are written as in YAML: 8, true, product,
    [layer1,layer2], every block.

    Raises:
        ValueError: if it cannot be read.
    """
    import yaml

    parts = re.fullmatch(r"([^()=,\s]+)(?:\((.*)\))?", text)
    if not parts:
        raise ValueError(f"attention variant {text!r}: write NAME or NAME(OPTION=VALUE,...), e.g. 'bam(reduction=8)'")
    given: dict[str, Any] = {}
    for word in re.split(_COMMA_OUTSIDE_SQUARE, parts[2]) if parts[2] else []:
        name, sign, value = word.strip().partition("=")
        if not (name.isidentifier() and sign and value):
            raise ValueError(f"attention variant {text!r}: {word.strip()!r} is not OPTION=VALUE")
        try:
            given[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"attention variant {text!r}: the value {value!r} cannot be read") from None
    if given.keys() - {"backbone"} and parts[1] == "none":
        raise ValueError(f"attention variant {text!r}: a network without attention has no options")
    fields = {name: given.pop(name) for name in _FIELDS if name in given}
    if "sites" in fields:
        several = fields["sites"] if isinstance(fields["sites"], list) else [fields["sites"]]
        fields["sites"] = None if fields["sites"] is None else [str(site) for site in several]
    return recipe.replace(attention=parts[1], attention_options=recipe.attention_options | given, **fields)


def folder_name(text: str) -> str:
    """The variant as a part of a file name: "bam(dilation=1)" -> "bam-dilation=1"."""
    return re.sub(r"[^\w=.-]+", "-", text).strip("-")
