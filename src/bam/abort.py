"""End without a traceback on Ctrl-C while the command imports torch, which takes seconds."""

import os
import signal
import sys
import threading
from types import FrameType


def _stop(number: int, frame: FrameType | None) -> None:
    os.write(2, b"bam: stopped\n")
    os._exit(128 + number)


def _is_command() -> bool:
    words = sys.orig_argv
    name = words[words.index("-m") + 1] if "-m" in words[:-1] else os.path.basename((sys.argv or [""])[0])
    return name in ("bam", "bam.exe") and threading.current_thread() is threading.main_thread()


_ignored = signal.getsignal(signal.SIGINT) is not signal.default_int_handler  # e.g. by a script's background jobs
_before = signal.signal(signal.SIGINT, _stop) if _is_command() and not _ignored else None


def restore() -> None:
    """Restore the handling of Ctrl-C, once the imports are over."""
    if _before is not None:
        signal.signal(signal.SIGINT, _before)
