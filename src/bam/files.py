"""Write files without losing their earlier content, and check files that are read."""

import contextlib
import json
import os
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to a temporary file, flush it to disk, then rename it: `path` is never half-written.

    File names in `content` that are not valid text (surrogate escapes) keep their bytes.

    Raises:
        OSError: e.g. for a full disk; the message names `path`, and the old file stays in place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _name_path_in_errors(path):
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
    """`content` as the text of a JSON file, which cannot hold NaN and infinities.

    Raises:
        ValueError: for NaN and infinities.
    """
    return json.dumps(content, indent=indent, allow_nan=False) + "\n"


def append(path: Path, text: str) -> None:
    """Append `text` to `path` and flush it to disk.

    Raises:
        OSError: the message names `path`; its earlier content is kept.
    """
    with _name_path_in_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """The dictionary in a JSON file.

    Raises:
        ValueError: if it is damaged, or holds no dictionary; the message ends with `advice`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {advice}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds a {type(content).__name__}); {advice}")
    return content


def check_types(values: Mapping[str, Any], types: Mapping[str, Any], source: Path | str) -> None:
    """Check the values of a file against their declared types; names without a type are not checked.

    Raises:
        ValueError: for the first value of another type; the message names `source`.
    """
    for name, kind in types.items():
        if name in values and not _has_type(values[name], kind):
            shown = f"{values[name]!r:.60}"
            expected = getattr(kind, "__name__", kind) if not typing.get_args(kind) else kind
            raise ValueError(
                f"{source} is damaged, or was not written by bam: {name} must be of type {expected}, got {shown}"
            )


def _has_type(value: Any, kind: Any) -> bool:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin is list:
        return isinstance(value, list) and all(_has_type(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_has_type(item, parts[1]) for item in value.values())
    if origin is not None:  # a union
        return any(_has_type(value, part) for part in parts)
    if kind in (int, float):
        return type(value) is int or (kind is float and type(value) is float)
    return isinstance(value, kind)


def inside(folder: Path, name: str, source: Path | str, *, follow_links: bool = False) -> Path:
    """The path of the file `name`, which `source` names, inside `folder`.

    Raises:
        ValueError: if it lies elsewhere; with `follow_links`, also if a link in the folder leads elsewhere.
    """
    path = folder / name
    resolve = os.path.realpath if follow_links else os.path.abspath
    if "\0" in name or not Path(resolve(path)).is_relative_to(resolve(folder)):
        raise ValueError(f"{source} names the file {name!r}, which is not below {folder} and was not read: correct it")
    return path


@contextlib.contextmanager
def _name_path_in_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; its earlier content is untouched") from None
