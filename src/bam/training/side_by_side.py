"""The runs of a comparison side by side, each in a process of its own."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait

import torch

from bam.training.display import Display
from bam.training.memory import keep_freed_memory
from bam.training.stopping import Interrupted, stop_request

Job = Callable[[], None]


def side_by_side(jobs: Sequence[Job], count: int) -> None:
    """Call `jobs`, which must be picklable, in `count` processes; with one, call them here.

    The processes share out the threads of this one, and its GPUs: the first gets the first GPU, and so on in turn.

    Raises:
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP, which every running job gets as SIGTERM.
        Exception: the first error of a job; the others get SIGTERM, too.
    """
    if count == 1:
        for job in jobs:
            job()
        return
    with stop_request() as stop, contextlib.ExitStack() as stack:
        threads = max(1, torch.get_num_threads() // count)
        workers = [stack.enter_context(_Worker(gpu, threads)) for gpu in _gpus(min(count, len(jobs)))]
        outcomes = _call_all(deque(jobs), workers, stop)
    if stop:
        saved = [str(outcome) for outcome in outcomes if isinstance(outcome, Interrupted)]
        raise Interrupted("; ".join(saved) or "stopped", stop[0])
    for outcome in sorted(outcomes, key=lambda outcome: isinstance(outcome, Interrupted)):
        raise outcome


def _call_all(jobs: deque[Job], workers: Sequence["_Worker"], stop: list[int]) -> list[BaseException]:
    """Call `jobs` until they end, one raises an exception or `stop` has a signal; returns the exceptions."""
    busy, outcomes, stopped = list(workers), list[BaseException](), False
    for worker in busy:
        worker.connection.send(jobs.popleft())
    while busy:
        ready = wait([worker.connection for worker in busy], timeout=0.5)
        for worker in [worker for worker in busy if worker.connection in ready]:
            outcome = worker.outcome()
            outcomes += [outcome] if outcome else []
            if jobs and not outcomes and not stop:
                worker.connection.send(jobs.popleft())
            else:
                busy.remove(worker)
        if (outcomes or stop) and not stopped:
            stopped = True
            for worker in busy:
                worker.process.terminate()
    return outcomes


class _Worker:
    """A process that calls one job after another; on exit, it is stopped if it is still busy, and awaited."""

    def __init__(self, gpu: str | None, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share the threads of torch
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, gpu, threads))
        self.process.start()
        theirs.close()  # so that the end of the process ends the connection

    def outcome(self) -> BaseException | None:
        """What the job that has just ended raised."""
        try:
            outcome: BaseException | None = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return RuntimeError(f"the process of a run has died (exit code {self.process.exitcode})")
        return outcome

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(None)
        if error[0]:
            self.process.terminate()
        self.process.join()


def _gpus(count: int) -> list[str | None]:
    """The GPU of each of `count` processes, as CUDA_VISIBLE_DEVICES names it; None without GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(k) for k in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    return [names[k % len(names)] if torch.cuda.device_count() else None for k in range(count)]


def _work(connection: Connection, gpu: str | None, threads: int) -> None:
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # a terminal's Ctrl-C goes to the first process alone, which passes it on once
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(threads)
    keep_freed_memory()
    Display.bars = False
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):  # the first process was killed
        while (job := connection.recv()) is not None:
            connection.send(_outcome(job))


def _end_with_the_first() -> None:
    """Wait for the end of the first process, even by SIGKILL, and let the run save its state and stop."""
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _outcome(job: Job) -> BaseException | None:
    try:
        job()
    except BaseException as error:  # whatever it is, the first process raises it
        error.add_note(traceback.format_exc())
        try:
            restored: BaseException = pickle.loads(pickle.dumps(error))
        except Exception:  # a library's exception that cannot be built again from its arguments
            return RuntimeError(f"{type(error).__name__}: {error}")
        return restored
    return None
