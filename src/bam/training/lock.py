"""A lock file lets one run at a time use a folder; its owner updates the file's time as a sign of life."""

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
_STALE = 300.0  #: seconds without a sign of life after which another machine's lock is taken over


@contextlib.contextmanager
def locked(folder: Path, active: bool = True) -> Iterator[None]:
    """Hold the lock of `folder`, which is created if necessary; do nothing unless `active`.

    The lock of a dead process is taken over: at once on the same machine, after five minutes from another one.

    Raises:
        ValueError: if another process holds it; the message names host and process.
    """
    if not active:
        yield
        return
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path, ended = folder / NAME, threading.Event()
    _take(path)
    own_text = path.read_text()
    threading.Thread(target=_keep_alive, args=(path, own_text, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            if path.read_text(errors="replace") == own_text:
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
    """Remove the lock if its process is dead; raise ValueError if not."""
    try:
        text = path.read_text(errors="replace")
        owner = _owner(text)
        silence = _now(path) - path.stat().st_mtime
    except FileNotFoundError:
        return  # its owner has just ended
    if owner and all(owner.get(key) == value for key, value in _machine().items()):
        alive, wait = _birth(owner["pid"]) == owner["birth"], ""
    else:
        alive, wait = silence < _STALE, f"; if it is dead, try again {_STALE / 60:.0f} minutes after it died"
    if alive:
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, since {owner.get('started', '?')[:19]} UTC"
        raise ValueError(f"{path.parent} is in use by {who}: wait for it, or choose another --out{wait}")
    aside = path.with_name(f".{NAME}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):  # another process is taking it over, too
        path.rename(aside)
        if aside.read_text(errors="replace") != text:  # and has done so between reading and renaming
            aside.rename(path)
        aside.unlink(missing_ok=True)


def _machine() -> dict[str, str]:
    """Identifies this machine, its boot, and the container, since process numbers are valid only inside it."""
    machine = {"host": socket.gethostname(), "boot": "", "processes": ""}
    with contextlib.suppress(OSError):  # not Linux
        machine["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine["processes"] = os.readlink("/proc/self/ns/pid")
    return machine


def _owner(text: str) -> dict[str, Any]:
    """The owner of a lock; empty if the file is incomplete or damaged."""
    try:
        owner = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    is_complete = isinstance(owner, dict) and owner.keys() >= {"host", "pid", "started", "birth"}
    return owner if is_complete and type(owner["pid"]) is int and isinstance(owner["started"], str) else {}


def _now(path: Path) -> float:
    """The time on the clock of the file system, which may be another machine's."""
    probe = path.with_name(f".{NAME}.{os.getpid()}.tmp")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _birth(pid: int) -> str | None:
    """The start time of a process, which later processes with its number do not share.

    It is "" if the system does not report it, and None if the process is gone.
    """
    try:
        if Path("/proc/self/stat").exists():
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # ticks from boot to its start
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        pass
    return ""


def _keep_alive(path: Path, own_text: str, ended: threading.Event) -> None:
    while not ended.wait(_HEARTBEAT):
        with contextlib.suppress(OSError):
            if path.read_text(errors="replace") == own_text:  # another machine may have taken it over
                os.utime(path)
