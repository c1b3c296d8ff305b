"""Objects of the user's own, named `<module>:<name>`; a file alone never makes one run."""

import contextlib
import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

#: Names that the user gave in this process, not a file.
_given: set[str] = set()
_trusting = False


def load_object(name: str, example: str) -> Any:
    """Import the object `<module>:<name>`; modules of the working directory come first, as with `python -m`.

    Names from files pass `refuse_code` first.

    Raises:
        ValueError: if there is none; the message shows `example`.
    """
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r}: {error}; give {example}") from None
    _given.add(name)
    return found


def refuse_code(names: Iterable[str], source: Path | str) -> None:
    """Refuse names of code that come from the file `source`, unless the user gave them, or trusts such files.

    Raises:
        ValueError: for the first name `<module>:<name>` that only the file gives.
    """
    for name in names:
        if ":" in name and name not in _given and not _trusting:
            raise ValueError(
                f"{source} names code to run, {name!r}: nothing of it was run; if you trust it, add --trust-code (in "
                "Python: with bam.objects.trusting_code())"
            )


@contextlib.contextmanager
def trusting_code(trust: bool = True) -> Iterator[None]:
    """Within the context, records, recipes and comparisons may name code of the user's own, which then runs."""
    global _trusting
    before = _trusting
    _trusting = trust
    try:
        yield
    finally:
        _trusting = before
