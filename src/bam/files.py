"""Writing files so that nothing that was written is ever lost."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` under a temporary name, flush it to the disk, then rename: `path` is always whole, old or new.

    Raises OSError (a full disk, say), naming `path`, with the old file still in place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    """Add `text` to the end of `path` and flush it to the disk; a failure names `path` and keeps what it held."""
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
