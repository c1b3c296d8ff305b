"""What ends a run before its last step: a signal, or numbers that are not finite."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
_ALWAYS = (signal.SIGINT, signal.SIGTERM)  #: also where a shell has ignored them, as for its background jobs


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has saved its state; the message says where.

    Attributes:
        signal: number of the signal that asked.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = number


class Diverged(ValueError):
    """The run stopped because a loss, a weight or a result was not finite; the message says where."""


@contextlib.contextmanager
def stop_request() -> Iterator[list[int]]:
    """A list of received stop signals, empty at first; a second signal stops at once.

    They are Ctrl-C, SIGTERM and SIGHUP (a closed terminal), which `nohup` has ignored.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        numbers = [n for n in _SIGNALS if n in _ALWAYS or signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, receive) for number in numbers}
    except ValueError:  # not in the main thread, which alone may handle signals
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
