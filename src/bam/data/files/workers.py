"""Worker processes that decode images; they live for one epoch."""

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

#: How many training processes share this machine's cores, if none of torchrun's variables says so.
processes_beside = 1
#: Whether a process can find out who sent it a signal.
_SENDER_IS_KNOWN = hasattr(signal, "sigtimedwait")
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

AnyDecoded = TypeVar("AnyDecoded")


def decode(
    requests: Iterable[Any], decoder: Dataset[AnyDecoded], num_workers: int, pin_memory: bool
) -> Generator[AnyDecoded, None, None]:
    """Decode `requests`, and yield the results in the order of the requests.

    With 0 workers, this process decodes. The workers end with the generator. torch's global generators do not change.

    Raises:
        OSError: if a worker has died.
    """
    with _clean_start():
        loader = iter(
            DataLoader(
                decoder,
                batch_size=None,
                sampler=requests,
                collate_fn=_unchanged,
                num_workers=num_workers,
                pin_memory=pin_memory,
                worker_init_fn=_leave_signals_to_parent,
                generator=torch.Generator(),  # the default draws from the global one
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
                f"a process that decodes images has died ({reason}); if memory ran out, use fewer: "
                """--data-options '{"workers": 1}'"""
            ) from None
        yield decoded


def default_workers(num_images: int, num_processes: int) -> int:
    """Number of workers for each of `num_processes` training processes, which each decode `num_images` per epoch."""
    if num_images < 256:
        return 0  # decoding them takes less time than starting workers
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes)) * processes_beside
    return min(16, max(1, (os.cpu_count() or 1) // num_local - 1))


@contextlib.contextmanager
def _clean_start() -> Iterator[None]:
    """Let workers start without warnings and with stop signals blocked; undo what torch changes in this process."""
    child_died = getattr(signal, "SIGCHLD", None)
    handler = signal.getsignal(child_died) if child_died else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS if _SENDER_IS_KNOWN else ()) if child_died else None
    try:
        with warnings.catch_warnings():
            # Users may ask for more workers than cores. Workers only decode, and need no lock that a thread may hold.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork")
            yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # When a worker dies, torch's handler raises at whatever line is running; `decode` notices by itself.
        if child_died and handler is not None and signal.getsignal(child_died) is not handler:
            signal.signal(child_died, handler)


def _unchanged(decoded: Any) -> Any:
    return decoded


def _leave_signals_to_parent(worker: int) -> None:
    """Let only the parent stop a worker: Ctrl-C, and SIGTERM to a whole job, reach the workers as well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _SENDER_IS_KNOWN:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """End this process when its parent asks or has died."""
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if received and received.si_pid == parent:
            break
    os._exit(0)
