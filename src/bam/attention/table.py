"""The attention modules by name."""

import importlib
import sys
from collections.abc import Callable

from torch import nn

from bam.attention.bam import BAM
from bam.attention.se import SE

#: Name -> class. Every entry is built as `cls(channels, **options)`.
ATTENTION: dict[str, type[nn.Module]] = {"bam": BAM, "se": SE}


def attention_factory(attention: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """What builds a module for so many channels: by name, or by "<module>:<class>" for one of your own.

    A callable is returned as it is.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(attention, nn.Module):
        raise ValueError(f"attention: give what builds a module for so many channels, not a {type(attention).__name__}")
    if not isinstance(attention, str):
        return attention
    if ":" in attention:
        return _imported(attention)
    if attention not in ATTENTION:
        own = "<module>:<class> for one of your own"
        raise ValueError(f"unknown attention {attention!r}; known: {', '.join(ATTENTION)}; or {own}")
    return ATTENTION[attention]


def attention_name(factory: Callable[..., nn.Module]) -> str:
    """The name by which `attention_factory` gives `factory`: in `ATTENTION`, else where it is defined."""
    known = next((name for name, cls in ATTENTION.items() if cls is factory), None)
    if known is not None:
        return known
    named = factory if hasattr(factory, "__qualname__") else type(factory)  # a partial has a type only
    return f"{named.__module__}:{named.__qualname__}"


def _imported(name: str) -> Callable[..., nn.Module]:
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as python does: modules of the working directory come first
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"attention {name!r}: {error}; give <module>:<class>, e.g. my_modules:Gate") from None
