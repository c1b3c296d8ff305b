"""Turn the words of a command into the arguments of its verb."""

import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NoReturn

from bam.attention.spec import AttentionSpec, split_specs
from bam.flags.parser import PARTS, parser_of
from bam.flags.positions import by_position, names_flag
from bam.objects import refuse_code
from bam.recipes import Recipe, variant


def parse_flags(verb: Callable[..., None], words: list[str], *, examples: Sequence[str] = ()) -> dict[str, Any]:
    """The keyword arguments for `verb`.

    A `Recipe` comes from --recipe; each field of its task is a flag that overrides it. An `AttentionSpec` is given
    whole, 'bam(reduction=8, sites=layer2)', or in parts. A dataclass becomes one flag per field. Paths, texts and lists
    without a default may be given by position instead of by flag. The help ends with `examples`.
    """
    parameters = inspect.signature(verb).parameters
    if not parameters and not words:
        return {}  # the parser would need the extra "train"
    if "--out=" in words or ("--out", "") in pairwise(words):
        raise ValueError("out: give the name of a folder or file, got nothing")
    words, placed = by_position(words, parameters)
    parser, recipe = parser_of(verb, words, placed, examples)
    from jsonargparse import ArgumentError

    try:
        flags = vars(parser.parse_args(words, defaults=False))  # only the flags in `words`
    except ArgumentError as error:
        _leave(verb.__name__, str(error))
    except OverflowError as error:  # jsonargparse converts whole numbers to float unguarded
        _leave(verb.__name__, f"a number is too large ({error})")
    flags |= placed
    if recipe is not None and flags.get("task", recipe.task) != recipe.task:
        raise ValueError("write --task in full: it decides which other flags exist")
    if recipe is not None and not names_flag(words, "--recipe"):
        raise ValueError("write --recipe in full: it sets the defaults of all other flags")
    kinds = {name: (p.annotation, p.default) for name, p in parameters.items() if name != "recipe"}
    if recipe is not None and "attention" in parameters:
        _cross(flags, recipe, parameters["attention"].default)
    arguments = {name: _argument(*kind, name, flags) for name, kind in kinds.items()}
    if recipe is None:
        return arguments
    recipe = _changed(recipe, flags, without={"name", *parameters})
    typed = {flags.get("model"), *(AttentionSpec.parse(text).name for text in _split_attention(flags))}
    refuse_code((name for name in recipe.named_code if name not in typed), flags["recipe"])
    return arguments | {"recipe": recipe}


def _cross(flags: dict[str, Any], recipe: Recipe, variants: str) -> None:
    """If a field has several values, repeat each variant once per value, unless the variant sets the field itself."""
    for field in recipe.CROSSED:
        values = split_specs(flags[field]) if isinstance(flags.get(field), str) else []
        if len(values) > 1:
            del flags[field]
            specs = [AttentionSpec.parse(text) for text in split_specs(flags.get("attention", variants))]
            crossed = [
                spec if field in spec.options else dataclasses.replace(spec, options=spec.options | {field: value})
                for spec in specs
                for value in (values[:1] if field in spec.options else values)
            ]
            flags["attention"] = ", ".join(map(str, crossed))


def _split_attention(flags: dict[str, Any]) -> list[str]:
    """The variants named by --attention."""
    return split_specs(flags["attention"]) if "attention" in flags else []


def _leave(verb: str, message: str) -> NoReturn:
    """End the command with status 2 and a message about wrong usage, without listing all flags."""
    message = re.sub(r'Parser key "([^"]+)":\s+', lambda key: f"--{key[1].replace('_', '-')}: ", message)
    message = re.sub(r"Expected an? (?:<class '(.+?)'>|typing\.Literal\[(.+?)\])\. Got value: ", _expected, message)
    print(f"bam {verb}: {message}; bam {verb} --help explains the flags", file=sys.stderr)
    raise SystemExit(2)


def _expected(match: re.Match[str]) -> str:
    choices = match[2].replace("'", "") if match[2] else ""
    return f"expected {f'one of {choices}' if choices else match[1]}, got "


def _argument(kind: Any, default: Any, name: str, flags: dict[str, Any]) -> Any:
    """The value of one parameter of a verb, or of one field of a parameter."""
    if kind is AttentionSpec:
        recipe = Recipe(attention=default)
        return recipe.replace(**{part: flags[part] for part in (name, *PARTS) if part in flags}).attention
    if dataclasses.is_dataclass(kind):
        fields = typing.get_type_hints(kind).items()
        changes = {field: _argument(hint, getattr(default, field), field, flags) for field, hint in fields}
        return dataclasses.replace(default, **changes)
    return flags.get(name, default)


def _changed(recipe: Recipe, flags: dict[str, Any], without: set[str]) -> Recipe:
    """The recipe, changed by the flags."""
    names = [name for name in (*recipe.types(), *PARTS) if name not in without and name in flags]
    changes = {name: flags[name] for name in names}
    data = changes.get("data", recipe.data)
    if data.partition(":")[0] == recipe.data.partition(":")[0]:
        changes["data_options"] = recipe.data_options | changes.get("data_options", {})
    else:  # data options carry over only if the data set is of the same kind
        changes.setdefault("data_options", {})
    attention = changes.pop("attention", None)
    recipe = recipe.replace(**changes)
    return recipe if attention is None else variant(recipe, attention)
