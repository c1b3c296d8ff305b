"""The runs of a comparison side by side, each in a process of its own; not on Windows."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import NamedTuple

import torch

from bam.data.files import workers as decoding
from bam.training.display import Display
from bam.training.memory import keep_freed_memory
from bam.training.stopping import Interrupted, stop_request, was_requested


class Job(NamedTuple):
    """A call without arguments, which must be picklable, and its name in messages."""

    title: str
    call: Callable[[], None]


def check_jobs(count: int) -> None:
    """Raise ValueError if `count` jobs cannot run side by side here."""
    if count < 1:
        raise ValueError(f"jobs: at least 1, got {count}")
    if count == 1:
        return
    if sys.platform == "win32":
        raise ValueError(f"jobs: on Windows, runs train one after another; got {count}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"jobs: under torchrun, runs train one after another; got {count}")
    if multiprocessing.parent_process() is not None:
        raise ValueError(
            f"jobs: {count} of them need the main process: call it from there, in a script below `if __name__ == "
            '"__main__":`'
        )


def side_by_side(jobs: Sequence[Job], count: int) -> None:
    """Call `jobs` in `count` processes; with one, call them here.

    The processes split the threads of this one, and take turns over its GPUs: the first gets the first one, and so on.

    Raises:
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP, which every running job gets as SIGTERM.
        Exception: the first error of a job; the others get SIGTERM, too.
    """
    count = min(count, len(jobs))
    if count <= 1:
        for job in jobs:
            job.call()
        return
    torch.cuda.empty_cache()
    with stop_request() as stop:
        workers = [_Worker(gpu, count) for gpu in _gpus(count)]
        try:
            outcomes = _call_all(deque(jobs), workers, stop)
        except BaseException:  # a second Ctrl-C, too: no process may outlive this call
            for worker in workers:
                worker.process.terminate()
            raise
        finally:
            for worker in workers:
                worker.dismiss()
            for worker in workers:
                worker.process.join()
    errors = [outcome for outcome in outcomes if not isinstance(outcome, Interrupted)]
    if errors:
        raise errors[0]
    if stop or outcomes:
        raise Interrupted("; ".join(map(str, outcomes)) or "stopped", stop[0] if stop else signal.SIGTERM)


def _call_all(jobs: deque[Job], workers: Sequence["_Worker"], stop: list[int]) -> list[BaseException]:
    """Call `jobs` until they end, one raises an exception or `stop` has a signal; returns the exceptions."""
    busy, outcomes, stopped = list(workers), list[BaseException](), False
    for worker in busy:
        worker.begin(jobs.popleft())
    while busy:
        ready = wait([worker.connection for worker in busy], timeout=0.5)
        for worker in [worker for worker in busy if worker.connection in ready]:
            outcome = worker.outcome()
            outcomes += [outcome] if outcome else []
            if jobs and not outcomes and not stop:
                worker.begin(jobs.popleft())
            else:
                worker.dismiss()
                busy.remove(worker)
        if (outcomes or stop) and not stopped:
            stopped = True
            for worker in busy:
                worker.process.terminate()
    return outcomes


class _Worker:
    """A process that calls one job after another."""

    def __init__(self, gpu: str | None, count: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share the threads of torch
        self.connection, child_end = context.Pipe()
        self.process = context.Process(target=_serve_jobs, args=(child_end, count, torch.get_num_threads()))
        with _inherited(gpu):
            self.process.start()
        child_end.close()  # so that the end of the process ends the connection
        self.title = ""

    def begin(self, job: Job) -> None:
        self.title = job.title
        with contextlib.suppress(ConnectionError):  # a dead process: `outcome` reports it
            self.connection.send(job)

    def outcome(self) -> BaseException | None:
        """Wait for the end of the job; returns what it raised."""
        try:
            outcome: BaseException | None = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode
            if code == -signal.SIGTERM:  # before the run began or after its end: nothing to save
                return Interrupted(f"{self.title}: stopped", signal.SIGTERM)
            return OSError(
                f"{self.title}: its process has died (exit code {code}); if memory ran out, use fewer --jobs. The same "
                "command continues"
            )
        return outcome

    def dismiss(self) -> None:
        """Tell the process to end after its job; ending takes a second or more. Calling this again has no effect."""
        with contextlib.suppress(ConnectionError):
            self.connection.send(None)


@contextlib.contextmanager
def _inherited(gpu: str | None) -> Iterator[None]:
    """What a process that starts here inherits: its GPU, and Ctrl-C blocked until it leaves the terminal's group."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        if gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        yield
    finally:
        if gpu is not None:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            os.environ |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _gpus(count: int) -> list[str | None]:
    """The GPU of each of `count` processes, as CUDA_VISIBLE_DEVICES names it; None without GPUs."""
    number, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(k) for k in range(number)] if visible is None else visible.split(",")[:number]
    return [names[k % number] if number else None for k in range(count)]


def _serve_jobs(connection: Connection, count: int, threads: int) -> None:
    os.setpgid(0, 0)  # a terminal's Ctrl-C goes to the parent alone, which passes it on once
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.signal(signal.SIGTERM, _end)
    torch.set_num_threads(max(1, threads // count))
    keep_freed_memory()
    Display.bars, decoding.processes_beside = False, count
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError):  # the parent was killed
        while (job := connection.recv()) is not None:
            connection.send(_outcome(job))


def _end(number: int, frame: FrameType | None) -> None:
    """End as by default, but not if the run has just stopped for this request: the parent waits for its outcome."""
    if not was_requested():
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _stop_with_parent() -> None:
    """Wait for the end of the parent, even by SIGKILL, and let the run save its state and stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _outcome(job: Job) -> BaseException | None:
    try:
        job.call()
    except BaseException as error:  # whatever it is, the parent raises it
        error.add_note(traceback.format_exc())
        try:
            restored: BaseException = pickle.loads(pickle.dumps(error))
        except Exception:  # a library's exception that cannot be built again from its arguments
            restored = RuntimeError(f"{type(error).__name__}: {error}")
            restored.add_note(error.__notes__[-1])
        return restored
    return None
