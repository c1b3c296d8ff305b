"""Early ends of a run: a signal, or numbers that are not finite."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
_ONE_REQUEST = 10.0  #: seconds
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


@contextlib.contextmanager
def stop_request() -> Iterator[list[int]]:
    """A list of the stop signals received, empty at first; a second one stops at once.

    Repeats of SIGTERM within ten seconds are one request: schedulers send it to each process of a job, and `bam compare
    --jobs` passes it on. The signals are Ctrl-C, SIGTERM and, unless `nohup` ignores it, SIGHUP (a closed terminal).
    """
    received: list[int] = []

    at = 0.0

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal at
        if received and (number != signal.SIGTERM or time.monotonic() - at > _ONE_REQUEST):
            raise KeyboardInterrupt
        if not received:
            received.append(number)
            at = time.monotonic()

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
