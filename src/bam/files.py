"""Writing files without ever losing what was written before."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to a temporary file, flush it to disk, then rename it: `path` is never half-written.

    Names of files and folders in a text need not be text; their bytes stay what they are.

    Raises:
        OSError: e.g. for a full disk; the message names `path`, and the old file stays in place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def strict_json(content: Any, *, indent: int | None = 1) -> str:
    """The text of a JSON file; what is not finite is no JSON.

    Raises:
        ValueError: for NaN and infinities.
    """
    return json.dumps(content, indent=indent, allow_nan=False) + "\n"


def append(path: Path, text: str) -> None:
    """Append `text` to `path` and flush it to disk.

    Raises:
        OSError: the message names `path`; its earlier content is kept.
    """
    with _named(path), open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; what was written before is untouched") from None
