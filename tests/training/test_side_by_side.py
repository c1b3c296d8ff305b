"""Runs of a comparison side by side, each in a process of its own."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from bam.data.files.workers import default_workers
from bam.recipes import ClassificationRecipe
from bam.training import compare
from bam.training.lock import NAME
from bam.training.side_by_side import Job, _gpus, _inherited, side_by_side
from bam.training.states import has_state
from bam.training.stopping import Interrupted, stop_request

TINY = ClassificationRecipe(
    data_options={"num_train": 128, "num_test": 50, "canvas": 16}, batch_size=32, epochs=1, precision="fp32"
)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def weights(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/model.safetensors")}


def test_results_are_those_of_one_run_after_another(tmp_path, threads, capfd, monkeypatch):
    threads(2)
    compare(TINY, ["none", "bam"], 2, tmp_path / "both", jobs=2)
    printed = capfd.readouterr().out
    assert all(f"[{k}/4]" in printed for k in (1, 2, 3, 4))
    monkeypatch.setattr("bam.training.side_by_side._Worker", None)
    compare(TINY, ["none", "bam"], 2, tmp_path / "both", jobs=2)  # complete runs start no process
    threads(1)
    compare(TINY, ["none", "bam"], 2, tmp_path / "each")
    assert weights(tmp_path / "both") == weights(tmp_path / "each") and len(weights(tmp_path / "each")) == 4


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM, signal.SIGKILL]
)
def test_a_stop_saves_every_run(tmp_path, number):
    words = ["--recipe", "digits/small", "--out", str(tmp_path), "--jobs", "2", "--epochs", "500", "--device", "cpu"]
    words += ["--data-options", '{"num_train": 128, "num_test": 50, "canvas": 16}']
    command = [sys.executable, "-m", "bam", "compare", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    folders, workers = [tmp_path / "none-seed0", tmp_path / "bam-seed0"], []
    try:
        end = time.monotonic() + 300
        while not all(map(has_state, folders)):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        workers = [json.loads((folder / NAME).read_text())["pid"] for folder in folders]
        os.killpg(process.pid, number)  # as a terminal does for Ctrl-C
        if number == signal.SIGTERM:  # as a scheduler does
            for worker in workers:
                os.kill(worker, number)
        error = process.communicate(timeout=300)[1]  # until no process has stderr open
    finally:
        for leftover in (process.pid, *workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(leftover, signal.SIGKILL)
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number and error.count("the state is saved in") == 2
        assert "continue with: bam compare" in error and not (tmp_path / NAME).exists()
    assert not list(tmp_path.glob(f"*/{NAME}"))  # each run has ended by itself


def stopped_and_asked_again():
    with stop_request() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # the parent passes the request on after the run has stopped for it
    raise Interrupted("the state is saved", stop[0])


def test_a_run_that_has_just_stopped_says_so():
    with pytest.raises(Interrupted, match="the state is saved"):
        side_by_side([Job("a", stopped_and_asked_again), Job("b", partial(time.sleep, 600))], 2)


def test_the_first_error_stops_the_others(tmp_path):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match="missing"):
        side_by_side([Job("a", partial(time.sleep, 600)), Job("b", partial(Path.read_text, tmp_path / "missing"))], 2)
    with pytest.raises(OSError, match=r"b: its process has died \(exit code 3\); if memory ran out, use fewer --jobs"):
        side_by_side([Job("a", partial(time.sleep, 600)), Job("b", partial(os._exit, 3))], 2)
    assert time.monotonic() - start < 300


def hold(path, held=[]):  # noqa: B006  # until the process ends
    held.append(open(path.with_suffix(".new"), "w"))
    fcntl.flock(held[0], fcntl.LOCK_EX)
    path.with_suffix(".new").rename(path)


def take(path):
    end = time.monotonic() + 60
    while not path.exists():
        time.sleep(0.1)
    with open(path) as file:
        while True:
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert time.monotonic() < end, "the process of the other job is still there"
            time.sleep(0.1)


def test_a_process_without_further_jobs_ends_at_once(tmp_path):
    side_by_side([Job("a", partial(hold, tmp_path / "lock")), Job("b", partial(take, tmp_path / "lock"))], 2)


def test_gpus_are_taken_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert _gpus(2) == [None, None]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _gpus(3) == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a,7")  # 7 is not there
    assert _gpus(3) == ["4", "GPU-a", "4"]


@pytest.mark.parametrize("before", [None, "1"])
def test_a_process_inherits_its_gpu_and_no_ctrl_c(monkeypatch, before):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with _inherited("4"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked


def test_decoding_processes_share_the_cores(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert default_workers(1000, 1) == 15
    monkeypatch.setattr("bam.data.files.workers.processes_beside", 4)
    assert default_workers(1000, 1) == 3


def test_impossible_numbers_of_jobs_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="jobs: at least 1, got 0"):
        compare(TINY, ["none", "bam"], 1, tmp_path, jobs=0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="under torchrun, runs train one after another; got 2"):
        compare(TINY, ["none", "bam"], 1, tmp_path, jobs=2)
