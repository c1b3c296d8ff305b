"""Import the user's own objects by `<module>:<name>`; code named only in a file needs the user's trust."""

import contextlib
import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

#: Names that the user gave in this process, in contrast to names from files.
_names_from_user: set[str] = set()
_trusting = False


def load_object(name: str, example: str) -> Any:
    """Import the object `<module>:<name>`; modules of the working directory come first, as with `python -m`.

    Names from files pass `refuse_code` first.

    Raises:
        ValueError: if it cannot be imported; the message shows `example`.
    """
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        loaded = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r}: {error}; give {example}") from None
    _names_from_user.add(name)
    return loaded


def refuse_code(names: Iterable[str], source: Path | str) -> None:
    """Refuse names of code from the file `source`, unless the user gave the same names or trusts such files.

    Raises:
        ValueError: for the first name `<module>:<name>` that only the file gives.
    """
    for name in names:
        if ":" in name and name not in _names_from_user and not _trusting:
            raise ValueError(
                f"{source} names code to run, {name!r}, which was not run; if you trust it, add --trust-code (in "
                "Python: with bam.objects.trusting_code())"
            )


@contextlib.contextmanager
def trusting_code(trust: bool = True) -> Iterator[None]:
    """Within the context, code that records, recipes and comparisons name may run."""
    global _trusting
    before = _trusting
    _trusting = trust
    try:
        yield
    finally:
        _trusting = before
