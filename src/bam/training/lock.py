"""One process group at a time in a folder: a file says who, and its time says that they still live."""

import contextlib
import datetime
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bam.files import strict_json

NAME = "running.lock"
_HEARTBEAT = 60.0  #: seconds between signs of life
_STALE = 300.0  #: seconds without one, after which another machine's lock is taken over


@contextlib.contextmanager
def locked(folder: Path, wanted: bool = True) -> Iterator[None]:
    """Hold the lock of `folder`, which is created; without effect if it is not `wanted`.

    The lock of a process that is gone is taken over: at once on this machine, after five minutes on another one.

    Raises:
        ValueError: if another process holds it; the message names host and process.
    """
    if not wanted:
        yield
        return
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path, ended = folder / NAME, threading.Event()
    _take(path)
    mine = path.read_text()
    threading.Thread(target=_live, args=(path, mine, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            if path.read_text(errors="replace") == mine:
                path.unlink()
                for created in new:
                    created.rmdir()  # if nothing was written


def _take(path: Path) -> None:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    owner = {"pid": os.getpid(), "started": started, "birth": _birth(os.getpid())} | _machine()
    for _ in range(2):
        try:
            with open(path, "x") as file:
                file.write(strict_json(owner))
            return
        except FileExistsError:
            _remove_stale(path)
    raise ValueError(f"{path.parent} has just been taken by another process")


def _remove_stale(path: Path) -> None:
    """Remove the lock if its process is gone; raise ValueError if not."""
    try:
        text = path.read_text(errors="replace")
        owner = _owner(text)
        silence = _now(path) - path.stat().st_mtime
    except FileNotFoundError:
        return  # its owner has just ended
    if owner and all(owner.get(key) == value for key, value in _machine().items()):
        lives, wait = _birth(owner["pid"]) == owner["birth"], ""
    else:
        lives, wait = silence < _STALE, f"; if it is dead, try again {_STALE / 60:.0f} minutes after its end"
    if lives:
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, since {owner.get('started', '?')[:19]} UTC"
        raise ValueError(f"{path.parent} is in use by {who}: wait for it, or choose another --out{wait}")
    aside = path.with_name(f".{NAME}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):  # another process is taking it over, too
        path.rename(aside)
        if aside.read_text(errors="replace") != text:  # and has done so between reading and renaming
            aside.rename(path)
        aside.unlink(missing_ok=True)


def _machine() -> dict[str, str]:
    """What tells machines apart, their boots, and the containers on one, where process numbers mean something else."""
    machine = {"host": socket.gethostname(), "boot": "", "processes": ""}
    with contextlib.suppress(OSError):  # not Linux
        machine["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine["processes"] = os.readlink("/proc/self/ns/pid")
    return machine


def _owner(text: str) -> dict[str, Any]:
    """Who wrote a lock; empty if it is being written, or damaged."""
    try:
        owner = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    known = isinstance(owner, dict) and owner.keys() >= {"host", "pid", "started", "birth"}
    return owner if known and type(owner["pid"]) is int and isinstance(owner["started"], str) else {}


def _now(path: Path) -> float:
    """The time by the clock of the file system, which may be another machine's."""
    probe = path.with_name(f".{NAME}.{os.getpid()}.tmp")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _birth(pid: int) -> str | None:
    """What tells a process from a later one with its number, "" where the system does not say; None if it is gone."""
    try:
        if Path("/proc/self/stat").exists():
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # ticks from boot to its start
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        pass
    return ""


def _live(path: Path, mine: str, ended: threading.Event) -> None:
    while not ended.wait(_HEARTBEAT):
        with contextlib.suppress(OSError):
            if path.read_text(errors="replace") == mine:  # a machine that was suspended may have lost it
                os.utime(path)
