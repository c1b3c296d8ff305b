"""Specifications of attention, such as `bam(reduction=8, sites=layer2)`: only this file parses and prints them."""

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bam.attention.contract import fitted_options, usual_sites
from bam.attention.table import attention_factory

#: YAML's words for true, false and null; upper case and capitalised words count too.
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "null": None, "~": None}
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_NAME = r"""[^()=,\s\[\]{}"']+"""
_FORM = re.compile(rf"({_NAME})\s*(?:\((.*)\))?", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(\d[\d_]*|0[xX][\da-fA-F_]+)|[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")
_TOKEN = re.compile(r""" "(?:[^"\\]|\\.)*" | '[^']*' | . """, re.DOTALL | re.VERBOSE)


@dataclass(frozen=True)
class AttentionSpec:
    """Attention for a network: which module, its options, its sites.

    As text it is NAME or NAME(OPTION=VALUE, ...). The options `sites` and `identity` set the fields of that name; all
    others go to the module. Values are numbers, true, false, words, "quoted text" or [lists, of, them].

    Attributes:
        name: a name in `bam.ATTENTION`, "<module>:<class>" for your own module, or "none" for the plain network.
        options: keyword arguments of the module, e.g. {"reduction": 8}.
        sites: where it goes, in the form of `bam.select_sites`; None for the `usual_sites` of its class.
        identity: start with the plain network's output, bit for bit.

    Raises:
        ValueError: for a field of the wrong type.
    """

    name: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    sites: tuple[str, ...] | None = None
    identity: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(_NAME, self.name):
            raise ValueError(f"attention: a name is one word without brackets and quotes, got {self.name!r}")
        named = isinstance(self.options, dict) and all(isinstance(n, str) and n.isidentifier() for n in self.options)
        if not named:
            raise ValueError(f"attention {self.name}: options must be names with values, got {self.options!r}")
        for name in {"sites", "identity"} & self.options.keys():  # fields that were given as options
            object.__setattr__(self, name, self.options[name])
        options = {name: value for name, value in self.options.items() if name not in ("sites", "identity")}
        object.__setattr__(self, "options", options)
        if not isinstance(self.identity, bool):
            raise ValueError(f"attention {self.name}: identity must be true or false, got {self.identity!r}")
        if self.sites is not None:
            entries = self.sites if isinstance(self.sites, list | tuple) else [self.sites]
            labels = [getattr(site, "label", site) for site in entries]  # a Site has a label
            if not all(isinstance(site, str | int) and not isinstance(site, bool) for site in labels):
                raise ValueError(f"attention {self.name}: sites must be names or positions, got {self.sites!r}")
            object.__setattr__(self, "sites", tuple(map(str, labels)) or None)

    @property
    def is_none(self) -> bool:
        """Whether this is the plain network, without attention."""
        return self.name == "none"

    def __str__(self) -> str:
        options = dict(self.options)
        if self.sites is not None:
            options["sites"] = self.sites[0] if len(self.sites) == 1 else list(self.sites)
        if self.identity:
            options["identity"] = True
        inside = ", ".join(f"{name}={_format_value(value)}" for name, value in options.items())
        return f"{self.name}({inside})" if inside else self.name

    @classmethod
    def parse(cls, text: str, over: "AttentionSpec | None" = None) -> "AttentionSpec":
        """Parse `text`; `str` of the result parses to an equal specification.

        Options that the text leaves out come from `over`, if it is given.

        Raises:
            ValueError: if the text is not of the form above.
        """
        parts = _FORM.fullmatch(text.strip())
        if not parts:
            raise ValueError(f"attention {text!r}: write NAME or NAME(OPTION=VALUE, ...), e.g. 'bam(reduction=8)'")
        options: dict[str, Any] = {}
        try:
            for word in _split_at_commas(parts[2]) if parts[2] else []:
                name, sign, value = (part.strip() for part in word.partition("="))
                if not (name.isidentifier() and sign and value):
                    raise ValueError(f"{word.strip()!r} is not OPTION=VALUE")
                options[name] = _parse_value(value)
        except ValueError as error:
            raise ValueError(f"attention {text!r}: {error}") from None
        base = cls() if over is None else over
        return dataclasses.replace(base, name=parts[1], options=base.options | options)

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the module, including `identity`."""
        return self.options | ({"identity": True} if self.identity else {})

    def placed(self, factory: Callable[..., nn.Module] | None = None) -> tuple[str, ...]:
        """Its sites, or by default the usual sites of its class (of `factory`, if given).

        Raises:
            ValueError: for an unknown name.
        """
        if self.sites is not None:
            return self.sites
        return (usual_sites(attention_factory(self.name) if factory is None else factory),)

    def fitted(self, height: int, width: int, factory: Callable[..., nn.Module] | None = None) -> "AttentionSpec":
        """A copy with the options that depend on the size of the map at a site; options already set stay."""
        by_size = fitted_options(attention_factory(self.name) if factory is None else factory, height, width)
        return dataclasses.replace(self, options=by_size | self.options) if by_size else self

    def build(self, channels: int, factory: Callable[..., nn.Module] | None = None) -> nn.Module:
        """Build the module for `channels` channels, by `factory` if it is given.

        Raises:
            ValueError: for an unknown name, or options that the module does not take.
        """
        build = attention_factory(self.name) if factory is None else factory
        if self.identity and not getattr(build, "starts_as_identity", True):
            raise ValueError(f"attention {self.name} cannot start as the identity: leave identity out")
        try:
            return build(channels, **self.arguments)
        except TypeError as error:  # Python's message names the unknown option
            raise ValueError(f"attention {self}: {error}") from error


def split_specs(text: str) -> list[str]:
    """Split "none, bam, bam(reduction=8, dilation=1)" into the texts of its specifications.

    Raises:
        ValueError: if there are none, or brackets do not match.
    """
    try:
        words = [_collapse_spaces(word) for word in _split_at_commas(text)]
    except ValueError as error:
        raise ValueError(f"attention {text!r}: {error}") from None
    if not all(words):
        raise ValueError(f"attention: expected variants separated by commas, got {text!r}")
    return words


@dataclass(frozen=True)
class SiteSpec:
    """The attention at one site, as carriers and files store it."""

    attention: AttentionSpec  #: its `sites` are not used
    channels: int

    def to_dict(self) -> dict[str, Any]:
        """{"attention": name, "channels": number, "options": {...}}, ready for JSON.

        Raises:
            ValueError: if an option cannot be written as JSON.
        """
        try:
            options = json.loads(json.dumps(self.attention.arguments, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"its options cannot be written as JSON ({error})") from None
        return {"attention": self.attention.name, "channels": self.channels, "options": options}

    @classmethod
    def from_dict(cls, content: Any) -> "SiteSpec":
        """Read the output of `to_dict`. A null name, from the first versions, means a module of the user's own.

        Raises:
            ValueError: for any other content.
        """
        kinds: dict[str, Any] = {"attention": (str, type(None)), "channels": int, "options": dict}
        complete = isinstance(content, dict) and content.keys() == kinds.keys()
        if not complete or not all(isinstance(content[key], kind) for key, kind in kinds.items()):
            raise ValueError(f'expected {{"attention": name, "channels": number, "options": {{...}}}}, got {content!r}')
        name, channels, options = content["attention"], content["channels"], content["options"]
        if type(channels) is not int or channels < 1:
            raise ValueError(f"channels must be a positive number, got {channels!r}")
        if "sites" in options:
            raise ValueError(f"the options of a site must not contain sites, got {options['sites']!r}")
        return cls(AttentionSpec(UNNAMED if name is None else name, options), channels)

    @property
    def is_own(self) -> bool:
        """Whether the module is the user's own, so that a file cannot say how to build it."""
        return ":" in self.attention.name


#: Stands for the name of a user's own module, which files of the first versions did not store.
UNNAMED = "<module>:<class>"


def _split_at_commas(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    parts, closing = [""], []
    for sign in _TOKEN.findall(text):
        if sign in _CLOSING:
            closing.append(_CLOSING[sign])
        elif sign == '"' or (sign in _CLOSING.values() and (not closing or closing.pop() != sign)):
            raise ValueError("brackets or quotes do not match")
        if sign == "," and not closing:
            parts.append("")
        else:
            parts[-1] += sign
    if closing:
        raise ValueError("brackets or quotes do not match")
    return parts


def _collapse_spaces(text: str) -> str:
    """`text` with single spaces, except inside quotes."""
    parts: list[str] = []
    for token in _TOKEN.findall(text):
        if not (token.isspace() and parts[-1:] == [" "]):
            parts.append(" " if token.isspace() else token)
    return "".join(parts).strip()


def _parse_value(word: str) -> Any:
    """Parse a value: a number, a truth value, text with or without quotes, or a list of these."""
    if word.startswith("[") and word.endswith("]") and len(_split_at_commas(word)) == 1:
        return [_parse_value(part.strip()) for part in _split_at_commas(word[1:-1])] if word[1:-1].strip() else []
    if word.lower() in _WORDS and word in (word.lower(), word.upper(), word.capitalize()):
        return _WORDS[word.lower()]
    if len(word) > 1 and word[0] == word[-1] == "'":
        return word[1:-1]
    if _NUMBER.fullmatch(word):
        if "x" in word.lower():
            return int(word, 16)
        return float(word) if re.search(r"[.eE]", word) else int(word)
    if not word.startswith(('"', "{")):
        return word
    try:
        return json.loads(word)
    except ValueError:
        raise ValueError(f"the value {word!r} cannot be read") from None


def _format_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_format_value, value))}]"
    if isinstance(value, str):
        return value if _needs_no_quotes(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if isinstance(value, int | float | dict | None) else repr(value)


def _needs_no_quotes(text: str) -> bool:
    """Whether a text parses to itself without quotes."""
    if not text or text != _collapse_spaces(text) or set(text) & set("=(){}\"'"):
        return False
    try:
        return _split_at_commas(text) == [text] and _parse_value(text) == text
    except ValueError:
        return False
