"""Flags from signatures: a typed function and its docstring become a command line; a recipe's fields become flags."""

import inspect
import re
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from bam.recipes import Recipe


def parse_flags(verb: Callable[..., None], words: list[str]) -> dict[str, Any]:
    """The keyword arguments for `verb`; for a `recipe` argument, every recipe field is a flag that changes it."""
    try:
        from docstring_parser import parse
        from jsonargparse import ArgumentParser
    except ImportError as error:
        raise ImportError(f"the command needs {error.name}: pip install 'bottleneck-attention[train]'") from None
    described = parse(inspect.getdoc(verb) or "")
    parser = ArgumentParser(prog=f"bam {verb.__name__}", description=described.description)
    helps = {p.arg_name: p.description for p in described.params}
    parameters = inspect.signature(verb).parameters
    for name, parameter in parameters.items():
        kind = str if parameter.annotation == "Recipe" else parameter.annotation
        _add_flag(parser, name, kind, parameter.default, helps[name])
    fields: list[str] = []
    if "recipe" in parameters:
        base = _named_recipe(words)
        fields = _add_recipe_flags(parser, base, without={"name", *parameters})
    values = vars(parser.parse_args(words))
    arguments = {name: values[name] for name in parameters}
    if "recipe" in parameters:
        chosen = {name: values[name] for name in fields}
        chosen["data_options"] = _data_options(base, chosen["data"], chosen["data_options"])
        arguments["recipe"] = base.replace(**chosen)
    return arguments


def _data_options(base: "Recipe", data: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options given, beside those of the recipe: other images of its kind are read as it says, others are not."""
    if data.partition(":")[0] == base.data.partition(":")[0]:
        return base.data_options | given
    return {} if given == base.data_options else given


def _named_recipe(words: list[str]) -> "Recipe":
    """The recipe that `--recipe` names among `words`, so that its values are the defaults that --help shows."""
    from argparse import ArgumentParser

    from bam.recipes import Recipe, load

    early = ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe")
    name = early.parse_known_args(words)[0].recipe
    return load(name) if name else Recipe()


def _add_recipe_flags(parser: "ArgumentParser", base: "Recipe", without: set[str]) -> list[str]:
    from docstring_parser import parse

    from bam.recipes import Recipe

    group = parser.add_argument_group("recipe fields", f"defaults are those of the recipe {base.name}")
    helps = {p.arg_name: p.description for p in parse(inspect.getdoc(Recipe) or "").params}
    added = []
    for name, kind in typing.get_type_hints(Recipe).items():
        if name not in without:
            _add_flag(group, name, kind, getattr(base, name), helps[name])
            added.append(name)
    return added


def _add_flag(parser: Any, name: str, kind: Any, default: Any, help: str | None) -> None:
    from jsonargparse import ActionYesNo

    flag, options = "--" + name.replace("_", "-"), {"help": help, "default": default}
    if default is inspect.Parameter.empty:
        options = {"help": help, "required": True}
    if kind is bool:
        parser.add_argument(flag, action=ActionYesNo(yes_prefix="", no_prefix="no-"), **options)
    elif kind in (list[float], list[str], list[str] | None):
        parser.add_argument(flag, type=ListOf(float if kind == list[float] else str), metavar="A,B,...", **options)
    else:
        parser.add_argument(flag, type=kind, **options)


class ListOf:
    """A flag's value "0.5,0.75" or "layer[1,2],fc" as a list."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __call__(self, text: str | list) -> list:
        """The list that `text` stands for."""
        return text if isinstance(text, list) else [self.kind(word) for word in re.split(r",(?![^\[]*\])", text)]

    def __repr__(self) -> str:
        return f"list of {self.kind.__name__}"
