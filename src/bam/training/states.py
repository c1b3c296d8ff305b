"""Training states on disk: the last two, each written atomically."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from bam.files import write_atomically

KEEP = 2


def save_state(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after `step` steps, with a digest of its bytes in the file name; keeps the last two states."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_atomically(folder / f"state-{step:09d}-{_digest(content)}.pt", content)
    for old in _states(folder)[:-KEEP]:
        old.unlink(missing_ok=True)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest undamaged state, or None; warns about each damaged file it skips.

    Raises:
        ValueError: if the digest is right, but `save_state` did not write the file; no code in it is executed.
    """
    paths = _states(folder)
    for path in reversed(paths):
        content = path.read_bytes()
        if _digest(content) == path.stem.rpartition("-")[2]:
            return _read(path, content)
        fallback = "falling back to the previous state" if path != paths[0] else "no state is left: starting at step 0"
        warnings.warn(f"{path} is damaged; {fallback}", stacklevel=2)
    return None


def _read(path: Path, content: bytes) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(action="ignore"):  # old formats are foreign too
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (MemoryError, torch.OutOfMemoryError):  # the state may be good
        raise
    except Exception as error:  # a foreign file may raise any exception
        problem = type(error).__name__
    else:
        if isinstance(state, dict):
            return state
        problem = f"it holds a {type(state).__name__}"
    raise ValueError(f"{path} is not a training state of bam ({problem}): move it away")


def set_aside_after(folder: Path, step: int) -> None:
    """Rename the states after `step`, which are damaged, to *.damaged, so that they do not count as the newest."""
    for path in _states(folder):
        if int(path.name.split("-")[1]) > step:
            path.rename(path.with_suffix(".damaged"))


def newest_step(folder: Path) -> int | None:
    """The step of the newest state, if there is one."""
    return max((int(path.name.split("-")[1]) for path in _states(folder)), default=None)


def has_state(folder: Path) -> bool:
    """Whether `folder` contains a state, damaged or not."""
    return bool(_states(folder))


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.pt"))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
