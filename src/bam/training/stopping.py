"""Early ends of a run: a signal, or numbers that are not finite."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
_ONE_REQUEST = 10.0  #: seconds
_requested = float("-inf")  #: when the last run of this process was asked to stop
_ALWAYS = (signal.SIGINT, signal.SIGTERM)  #: even if the shell ignores them, as for background jobs


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has saved its state; the message says where.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = number


class Diverged(ValueError):
    """The run stopped because a loss, a weight or a result was not finite; the message says where."""


def was_requested() -> bool:
    """Whether a run of this process was asked to stop within ten seconds: another SIGTERM is the same request."""
    return time.monotonic() - _requested <= _ONE_REQUEST


@contextlib.contextmanager
def stop_request() -> Iterator[list[int]]:
    """A list of the stop signals received, empty at first; a second one stops at once.

    Repeats of SIGTERM within ten seconds are one request: schedulers send it to each process of a job, and `bam compare
    --jobs` passes it on. The signals are Ctrl-C, SIGTERM and, unless `nohup` ignores it, SIGHUP (a closed terminal).
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        global _requested
        if received and (number != signal.SIGTERM or not was_requested()):
            raise KeyboardInterrupt
        if not received:
            received.append(number)
            _requested = time.monotonic()

    try:
        numbers = [n for n in _SIGNALS if n in _ALWAYS or signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, receive) for number in numbers}
    except ValueError:  # only the main thread may handle signals
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
