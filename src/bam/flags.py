"""Flags from signatures: a typed function and its docstring become a command line; a recipe's fields become flags."""

import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from bam.attention.spec import AttentionSpec, split_specs
from bam.objects import refuse_code
from bam.private import option_strings
from bam.recipes import Recipe, load, variant

#: What may also be said beside --attention.
_PARTS = {
    "attention_options": (dict[str, Any], "options of the attention module as JSON, e.g. '{\"reduction\": 8}'"),
    "sites": (
        list[str] | None,
        'where attention goes, see `bam sites`: "bottlenecks", "every block", names, patterns, positions '
        "(--sites=-1); default: where the paper of the attention module puts it",
    ),
    "identity": (bool, "insert attention so that the network starts with its own output exactly"),
}


def parse_flags(verb: Callable[..., None], words: list[str], *, examples: Sequence[str] = ()) -> dict[str, Any]:
    """The keyword arguments for `verb`.

    Of a `Recipe`, every field of its task is a flag that changes the recipe named by --recipe. An `AttentionSpec` may
    be given whole, 'bam(reduction=8, sites=layer2)', or in parts. A dataclass stands for a flag for each of its fields.
    Paths, texts and lists without a default may also be given by their position, without their flags. The help ends
    with `examples`.
    """
    parameters = inspect.signature(verb).parameters
    if not parameters and not words:
        return {}  # without a parser, which needs the extra train
    if "--out=" in words or ("--out", "") in pairwise(words):
        raise ValueError("out: give the name of a folder or a file, got nothing")
    words, placed = _by_position(words, parameters)
    parser, recipe = _parser(verb, words, placed, examples)
    from jsonargparse import ArgumentError

    try:
        given = vars(parser.parse_args(words, defaults=False))  # without what nobody said, whatever it would be
    except ArgumentError as error:
        _leave(verb.__name__, str(error))
    given |= placed
    if recipe is not None and given.get("task", recipe.task) != recipe.task:
        raise ValueError("write --task in full: it decides which other flags there are")
    if recipe is not None and not _names(words, "--recipe"):
        raise ValueError("write --recipe in full: its values are the defaults of all other flags")
    kinds = {name: (each.annotation, each.default) for name, each in parameters.items() if name != "recipe"}
    if recipe is not None and "attention" in parameters:
        _cross(given, recipe, parameters["attention"].default)
    arguments = {name: _argument(*kind, name, given) for name, kind in kinds.items()}
    if recipe is None:
        return arguments
    recipe = _changed(recipe, given, without={"name", *parameters})
    said = {given.get("model"), *(AttentionSpec.parse(text).name for text in _split_attention(given))}
    refuse_code((name for name in recipe.named_code if name not in said), given["recipe"])
    return arguments | {"recipe": recipe}


def _cross(given: dict[str, Any], recipe: Recipe, variants: str) -> None:
    """Where a field that variants may set has several values, make each variant one for every value of it."""
    for field in recipe.VARIANT_FIELDS:
        values = split_specs(given[field]) if isinstance(given.get(field), str) else []
        if len(values) > 1:
            del given[field]
            specs = [AttentionSpec.parse(text) for text in split_specs(given.get("attention", variants))]
            crossed = [
                dataclasses.replace(spec, options=spec.options | {field: value}) for spec in specs for value in values
            ]
            given["attention"] = ", ".join(map(str, crossed))


def flags_of(verb: Callable[..., None]) -> list[str]:
    """All flags of `verb`; of a recipe's fields, those of the task classification."""
    parser, _ = _parser(verb, [], {}, ())
    return [flag for flag in option_strings(parser) if flag.startswith("--")]


def _parser(
    verb: Callable[..., None], words: list[str], placed: Mapping[str, Any], examples: Sequence[str]
) -> tuple[Any, Recipe | None]:
    """The parser of a verb's flags, and the recipe that `words` name, if the verb takes one."""
    try:
        from docstring_parser import parse
        from jsonargparse import ArgumentParser
    except ImportError as error:
        raise ImportError(f"the command needs {error.name}: pip install 'bottleneck-attention[train]'") from None

    class Parser(ArgumentParser):
        def format_help(self, *formatter: Any) -> str:
            """Help with plain names of types, and the examples at its end."""
            text = re.sub(r"<class\s+'(\w+)'>", lambda kind: kind[1].lower(), super().format_help(*formatter))
            return text + "".join(["\nexamples:\n", *(f"  {line}\n" for line in examples)] if examples else [])

    described, parameters = parse(inspect.getdoc(verb) or ""), inspect.signature(verb).parameters
    description = _description(described.description, parameters)
    parser = Parser(prog=f"bam {verb.__name__}", description=description, exit_on_error=False)
    recipe = _named_recipe(words) if "recipe" in parameters else None
    _add_flags(parser, parameters, {p.arg_name: p.description for p in described.params}, placed)
    if recipe is not None:
        _add_recipe_flags(parser, recipe, without={"name", *parameters})
    return parser, recipe


def _add_flags(
    parser: Any, parameters: Mapping[str, inspect.Parameter], helps: Mapping[str, str | None], placed: Mapping[str, Any]
) -> None:
    """Add a flag for each parameter of a verb; those in `placed` were given by position."""
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


def _split_attention(given: dict[str, Any]) -> list[str]:
    """The variants that --attention names."""
    return split_specs(given["attention"]) if "attention" in given else []


def _leave(verb: str, message: str) -> NoReturn:
    """End the command for wrong usage, without the usage of all flags before the message."""
    message = re.sub(r'Parser key "([^"]+)":\s+', lambda key: f"--{key[1].replace('_', '-')}: ", message)
    message = re.sub(r"Expected an? (?:<class '(.+?)'>|typing\.Literal\[(.+?)\])\. Got value: ", _expected, message)
    print(f"bam {verb}: {message}; bam {verb} --help explains the flags", file=sys.stderr)
    raise SystemExit(2)


def _expected(match: re.Match[str]) -> str:
    choices = match[2].replace("'", "") if match[2] else ""
    return f"expected {f'one of {choices}' if choices else match[1]}, got "


def _argument(kind: Any, default: Any, name: str, given: dict[str, Any]) -> Any:
    """The value of one parameter of a verb, or of one field of a parameter."""
    if kind is AttentionSpec:
        recipe = Recipe(attention=default)
        return recipe.replace(**{part: given[part] for part in (name, *_PARTS) if part in given}).attention
    if dataclasses.is_dataclass(kind):
        fields = typing.get_type_hints(kind).items()
        changes = {field: _argument(hint, getattr(default, field), field, given) for field, hint in fields}
        return dataclasses.replace(default, **changes)
    return given.get(name, default)


def _changed(recipe: Recipe, given: dict[str, Any], without: set[str]) -> Recipe:
    """The recipe with what the flags say of its fields."""
    names = [name for name in (*recipe.types(), *_PARTS) if name not in without and name in given]
    changes = {name: given[name] for name in names}
    data = changes.get("data", recipe.data)
    if data.partition(":")[0] == recipe.data.partition(":")[0]:
        changes["data_options"] = recipe.data_options | changes.get("data_options", {})
    else:  # data options carry over only if the data set is of the same kind
        changes.setdefault("data_options", {})
    attention = changes.pop("attention", None)
    recipe = recipe.replace(**changes)
    return recipe if attention is None else variant(recipe, attention)


def _placeable(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Name -> type of the parameters that may be given by their position, in order."""
    required = [p for p in parameters.values() if p.default is inspect.Parameter.empty]
    return {p.name: p.annotation for p in required if p.annotation in (str, Path, list[str])}


def _by_position(words: list[str], parameters: Mapping[str, inspect.Parameter]) -> tuple[list[str], dict[str, Any]]:
    """The words that remain, and the values of the parameters that others give by their position; a list takes all."""
    missing = [name for name in _placeable(parameters) if not _names(words, f"--{name.replace('_', '-')}")]
    free, placed = _free_words(words, _switches(parameters)), dict[str, Any]()
    used: set[int] = set()
    for name in missing:
        kind = parameters[name].annotation
        chosen = free if kind == list[str] else free[:1]
        if chosen:
            texts = [words[place] for place in chosen]
            placed[name] = texts if kind == list[str] else kind(texts[0])
            free, used = free[len(chosen) :], used.union(chosen)
    return [word for place, word in enumerate(words) if place not in used], placed


def _free_words(words: list[str], switches: set[str]) -> list[int]:
    """Places of the words that are neither flags nor their values."""
    places, value_follows = [], False
    for place, word in enumerate(words):
        if word.startswith("-") and not value_follows:
            switch = any(name.startswith(word) for name in switches)
            follower = words[place + 1] if place + 1 < len(words) else ""
            value_follows = "=" not in word and (not switch or follower in ("true", "false"))
        elif value_follows:
            value_follows = False
        else:
            places.append(place)
    return places


def _switches(parameters: Mapping[str, inspect.Parameter]) -> set[str]:
    """The flags that take no value."""
    names = {"help"}
    for name, parameter in parameters.items():
        kind = parameter.annotation
        is_one = kind is AttentionSpec or not dataclasses.is_dataclass(kind)
        for field, hint in {name: kind}.items() if is_one else typing.get_type_hints(kind).items():
            names |= {field} if hint is bool else {"identity"} if hint is AttentionSpec else set()
    flags = {f"--{prefix}{name.replace('_', '-')}" for name in names for prefix in ("", "no-")}
    return flags | {"-h"}


def _description(description: str | None, parameters: Mapping[str, inspect.Parameter]) -> str:
    """What a verb does, and what may be given by its position."""
    kinds = _placeable(parameters)
    if not kinds:
        return description or ""
    order = " ".join(name.upper() + ("..." if kind == list[str] else "") for name, kind in kinds.items())
    return f"{description}\n\nAlso without flags, in this order: {order}"


def _names(words: list[str], flag: str) -> bool:
    return any(word == flag or word.startswith(f"{flag}=") for word in words)


def _named_recipe(words: list[str]) -> Recipe:
    """The recipe that --recipe names among `words`, of the task that --task names, if it does."""
    from argparse import ArgumentParser

    early = ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe")
    early.add_argument("--task")
    named = early.parse_known_args(words)[0]
    recipe = load(named.recipe) if named.recipe else Recipe.from_dict({})
    return Recipe.from_dict(recipe.as_dict() | {"task": named.task}) if named.task else recipe


def _add_recipe_flags(parser: Any, recipe: Recipe, without: set[str]) -> None:
    group = parser.add_argument_group(
        f"recipe fields of the task {recipe.task}", f"defaults are those of the recipe {recipe.name}"
    )
    group.add_argument(
        "--task",
        choices=list(Recipe.TASKS),
        default=recipe.task,
        help="what is trained for; each has fields of its own",
    )
    helps = _described_fields(type(recipe))
    for name, kind in recipe.types().items():
        if name not in without:
            old = [recipe.RENAMED[name]] if name in recipe.RENAMED else []
            _add_flag(group, name, kind, getattr(recipe, name), helps[name], old)
    _add_parts(group, recipe.attention)


def _add_parts(parser: Any, attention: AttentionSpec) -> None:
    defaults = {"attention_options": attention.options, "sites": attention.sites, "identity": attention.identity}
    for name, (kind, help) in _PARTS.items():
        _add_flag(parser, name, kind, defaults[name], help)


def _add_fields(parser: Any, kind: Any, default: Any) -> None:
    helps = _described_fields(kind)
    for name, hint in typing.get_type_hints(kind).items():
        _add_flag(parser, name, hint, getattr(default, name), helps[name])
        if hint is AttentionSpec:
            _add_parts(parser, getattr(default, name))


def _described_fields(kind: type) -> dict[str, str | None]:
    """Field -> what the docstrings of a dataclass and of those it builds on say of it."""
    from docstring_parser import parse

    described: dict[str, str | None] = {}
    for cls in reversed(kind.__mro__):
        described |= {
            p.arg_name: p.description for p in parse(cls.__doc__ and inspect.cleandoc(cls.__doc__) or "").params
        }
    return described


def _add_flag(parser: Any, name: str, kind: Any, default: Any, help: str | None, old: Iterable[str] = ()) -> None:
    from jsonargparse import ActionYesNo

    flags = ["--" + each.replace("_", "-") for each in (name, *old)]
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
    """A flag's value "0.5,0.75" or "layer[1,2],fc" as a list."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __call__(self, text: str | list) -> list:
        """The list that `text` stands for."""
        return text if isinstance(text, list) else [self.kind(word) for word in re.split(r",(?![^\[]*\])", text)]

    def __repr__(self) -> str:
        return f"list of {self.kind.__name__}"
