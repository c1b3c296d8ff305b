"""Build a verb's parser: one flag, with its help, per parameter of the verb and per field of its recipe."""

import dataclasses
import inspect
import re
import textwrap
import typing
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bam.attention.spec import AttentionSpec
from bam.flags.positions import placeable
from bam.private import option_strings
from bam.recipes import Recipe, load

#: Flags that set one part of --attention: name -> type and help.
PARTS = {
    "attention_options": (dict[str, Any], "options of the attention module as JSON, e.g. '{\"reduction\": 8}'"),
    "sites": (
        list[str] | None,
        'where attention goes, see `bam sites`: "bottlenecks", "every block", names, patterns, positions '
        "(--sites=-1); default: where the paper of the attention module puts it",
    ),
    "identity": (bool, "insert attention so that the network starts with its own output exactly"),
}


def flags_of(verb: Callable[..., None]) -> list[str]:
    """All flags of `verb`; if it takes a recipe, with the fields of the classification task."""
    parser, _ = parser_of(verb, [], {}, ())
    return [flag for flag in option_strings(parser) if flag.startswith("--")]


def parser_of(
    verb: Callable[..., None], words: list[str], placed: Mapping[str, Any], examples: Sequence[str]
) -> tuple[Any, Recipe | None]:
    """The parser for a verb's flags, and the recipe named in `words` if the verb takes one."""
    try:
        from docstring_parser import parse
        from jsonargparse import ArgumentParser, DefaultHelpFormatter
    except ImportError as error:
        raise ImportError(f"the command needs {error.name}: pip install 'bottleneck-attention[train]'") from None

    class Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Keeps the description's paragraphs."""

    class Parser(ArgumentParser):
        def format_help(self, *formatter: Any) -> str:
            """The help with plain type names, and the examples at the end."""
            text = re.sub(r"<class\s+'(\w+)'>", lambda kind: kind[1].lower(), super().format_help(*formatter))
            return text + "".join(["\nexamples:\n", *(f"  {line}\n" for line in examples)] if examples else [])

    docstring, parameters = parse(inspect.getdoc(verb) or ""), inspect.signature(verb).parameters
    description = _description(docstring.description, parameters)
    name = f"bam {verb.__name__}"
    parser = Parser(prog=name, description=description, exit_on_error=False, formatter_class=Formatter)
    recipe = _named_recipe(words) if "recipe" in parameters else None
    _add_flags(parser, parameters, {p.arg_name: p.description for p in docstring.params}, placed)
    if recipe is not None:
        _add_recipe_flags(parser, recipe, without={"name", *parameters})
    return parser, recipe


def _add_flags(
    parser: Any, parameters: Mapping[str, inspect.Parameter], helps: Mapping[str, str | None], placed: Mapping[str, Any]
) -> None:
    """Add a flag for each parameter of a verb; parameters in `placed` already have a value, by position."""
    for name, parameter in parameters.items():
        if name == "recipe":
            parser.add_argument("--recipe", required=True, help=helps[name])
        elif dataclasses.is_dataclass(parameter.annotation) and parameter.annotation is not AttentionSpec:
            _add_fields(parser, parameter.annotation, parameter.default)
        else:
            default = None if name in placed else parameter.default
            _add_flag(parser, name, parameter.annotation, default, helps[name])
            if parameter.annotation is AttentionSpec:
                _add_parts(parser, parameter.default)


def _description(description: str | None, parameters: Mapping[str, inspect.Parameter]) -> str:
    """A verb's description and its positional arguments, wrapped at 100 characters."""
    paragraphs = (description or "").split("\n\n")
    kinds = placeable(parameters)
    order = " ".join(name.upper() + ("..." if kind == list[str] else "") for name, kind in kinds.items())
    paragraphs += [f"Also without flags, in this order: {order}"] if kinds else []
    return "\n\n".join(textwrap.fill(" ".join(paragraph.split()), 100) for paragraph in paragraphs)


def _named_recipe(words: list[str]) -> Recipe:
    """The recipe that --recipe in `words` names, converted to the task of --task if that is present."""
    from argparse import ArgumentParser

    early = ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe")
    early.add_argument("--task")
    named = early.parse_known_args(words)[0]
    recipe = load(named.recipe) if named.recipe else Recipe.from_dict({})
    return Recipe.from_dict(recipe.as_dict() | {"task": named.task}) if named.task else recipe


def _add_recipe_flags(parser: Any, recipe: Recipe, without: set[str]) -> None:
    group = parser.add_argument_group(
        f"recipe fields of the task {recipe.task}", f"the defaults come from the recipe {recipe.name}"
    )
    group.add_argument(
        "--task",
        choices=list(Recipe.TASKS),
        default=recipe.task,
        help="what to train for; each task has its own fields",
    )
    helps = _field_descriptions(type(recipe))
    for name, kind in recipe.types().items():
        if name not in without:
            aliases = [recipe.RENAMED[name]] if name in recipe.RENAMED else []
            _add_flag(group, name, kind, getattr(recipe, name), helps[name], aliases)
    _add_parts(group, recipe.attention)


def _add_parts(parser: Any, attention: AttentionSpec) -> None:
    defaults = {"attention_options": attention.options, "sites": attention.sites, "identity": attention.identity}
    for name, (kind, help) in PARTS.items():
        _add_flag(parser, name, kind, defaults[name], help)


def _add_fields(parser: Any, kind: Any, default: Any) -> None:
    """Add a flag for each field of a dataclass, in a group titled with its docstring's first line."""
    parser = parser.add_argument_group((inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".").lower())
    helps = _field_descriptions(kind)
    for name, hint in typing.get_type_hints(kind).items():
        _add_flag(parser, name, hint, getattr(default, name), helps[name])
        if hint is AttentionSpec:
            _add_parts(parser, getattr(default, name))


def _field_descriptions(kind: type) -> dict[str, str | None]:
    """Field -> its description in the docstring of a dataclass or of one of its bases."""
    from docstring_parser import parse

    descriptions: dict[str, str | None] = {}
    for cls in reversed(kind.__mro__):
        descriptions |= {
            p.arg_name: p.description for p in parse(cls.__doc__ and inspect.cleandoc(cls.__doc__) or "").params
        }
    return descriptions


def _add_flag(parser: Any, name: str, kind: Any, default: Any, help: str | None, aliases: Iterable[str] = ()) -> None:
    from jsonargparse import ActionYesNo

    flags = ["--" + word.replace("_", "-") for word in (name, *aliases)]
    options = {"help": help, "default": default}
    if default is inspect.Parameter.empty:
        options = {"help": help, "required": True}
    if kind is bool:
        parser.add_argument(*flags, action=ActionYesNo(yes_prefix="", no_prefix="no-"), **options)
    elif kind is AttentionSpec:
        parser.add_argument(*flags, type=str, metavar="NAME(OPTION=VALUE,...)", **options | {"default": str(default)})
    elif kind in (list[float], list[str], list[str] | None):
        parser.add_argument(*flags, type=ListOf(float if kind == list[float] else str), metavar="A,B,...", **options)
    else:
        parser.add_argument(*flags, type=kind, **options)


class ListOf:
    """Reads a flag's value, such as "0.5,0.75" or "layer[1,2],fc", as a list."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __call__(self, text: str | list[Any]) -> list[Any]:
        """The items of `text`, split at commas outside brackets; a list is returned as it is."""
        return text if isinstance(text, list) else [self.kind(word) for word in re.split(r",(?![^\[]*\])", text)]

    def __repr__(self) -> str:
        return f"list of {self.kind.__name__}"
