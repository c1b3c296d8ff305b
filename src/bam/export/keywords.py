"""Check the keywords of functions that take `**options: Unpack[SomeTypedDict]`."""

from collections.abc import Mapping


def check_keywords(function: str, options: Mapping[str, object], known: type) -> None:
    """Raise Python's usual TypeError for a keyword that the TypedDict `known` lacks."""
    for name in options:
        if name not in known.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
