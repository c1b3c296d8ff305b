"""Positional arguments: a verb's required paths, texts and lists, given without their flags."""

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bam.attention.spec import AttentionSpec


def placeable(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Name -> type of the parameters that may be given by position, in order."""
    required = [p for p in parameters.values() if p.default is inspect.Parameter.empty]
    return {p.name: p.annotation for p in required if p.annotation in (str, Path, list[str])}


def by_position(words: list[str], parameters: Mapping[str, inspect.Parameter]) -> tuple[list[str], dict[str, Any]]:
    """Split off positional arguments: the remaining words, and parameter -> value; a list takes all words left."""
    missing = [name for name in placeable(parameters) if not names_flag(words, f"--{name.replace('_', '-')}")]
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
    """Indices of the words that are neither flags nor values of flags."""
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
        is_single = kind is AttentionSpec or not dataclasses.is_dataclass(kind)
        for field, hint in {name: kind}.items() if is_single else typing.get_type_hints(kind).items():
            names |= {field} if hint is bool else {"identity"} if hint is AttentionSpec else set()
    flags = {f"--{prefix}{name.replace('_', '-')}" for name in names for prefix in ("", "no-")}
    return flags | {"-h"}


def names_flag(words: list[str], flag: str) -> bool:
    """Whether one of the words is `flag` or `flag=value`."""
    return any(word == flag or word.startswith(f"{flag}=") for word in words)
