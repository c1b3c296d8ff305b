"""Processes that decode images; they live for an epoch."""

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

#: Whether a process can tell who has sent it a signal.
_TELLS_SENDER = hasattr(signal, "sigtimedwait")
_STOP = (signal.SIGINT, signal.SIGTERM)

AnyDecoded = TypeVar("AnyDecoded")


def decode(
    requests: Iterable[Any], decoder: Dataset[AnyDecoded], num_workers: int, pin_memory: bool
) -> Generator[AnyDecoded, None, None]:
    """What comes of `requests`, in their order whatever the number of processes; these end with the generator.

    With 0 workers this process decodes. torch's global generators are left alone.

    Raises:
        OSError: if one of the processes has died.
    """
    with _quiet_start():
        loader = iter(
            DataLoader(
                decoder,
                batch_size=None,
                sampler=requests,
                collate_fn=_as_it_is,
                num_workers=num_workers,
                pin_memory=pin_memory,
                worker_init_fn=_leave_signals_to_parent,
                generator=torch.Generator(),  # else it would draw from the global one
            )
        )
    while True:
        try:
            decoded = next(loader)
        except StopIteration:
            return
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            reason = str(error).partition("\n")[0]
            raise OSError(
                f"a process that decodes images has died ({reason}); fewer of them need less memory: "
                """--data-options '{"workers": 1}'"""
            ) from None
        yield decoded


def default_workers(num_images: int, num_processes: int) -> int:
    """How many processes should decode `num_images` an epoch, for each of `num_processes` that train."""
    if num_images < 256:
        return 0  # done before they have started
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))
    return min(16, max(1, (os.cpu_count() or 1) // beside - 1))


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Processes start without warnings, with signals to stop blocked; what torch changes in this process is undone."""
    child_died = getattr(signal, "SIGCHLD", None)
    handler = signal.getsignal(child_died) if child_died else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP if _TELLS_SENDER else ()) if child_died else None
    try:
        with warnings.catch_warnings():
            # The user has asked for more processes than cores; they only decode, without locks that a thread may hold.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork")
            yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # torch's handler raises wherever the program is when a process has died; `decode` finds out by itself.
        if child_died and handler is not None and signal.getsignal(child_died) is not handler:
            signal.signal(child_died, handler)


def _as_it_is(decoded: Any) -> Any:
    return decoded


def _leave_signals_to_parent(worker: int) -> None:
    """Only the parent decides when to stop: Ctrl-C, and a SIGTERM to all processes of a job, reach the workers, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _TELLS_SENDER:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """End this process when its parent asks for it, or has died."""
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if received and received.si_pid == parent:
            break
    os._exit(0)
