"""Objects of the user's own, named `<module>:<name>`."""

import importlib
import sys
from typing import Any


def load_object(name: str, example: str) -> Any:
    """Import the object `<module>:<name>`; modules of the working directory come first, as with `python -m`.

    Raises:
        ValueError: if there is none; the message shows `example`.
    """
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r}: {error}; give {example}") from None
