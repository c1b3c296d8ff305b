import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from bam.data.augmentation import Augmentation
from bam.data.files.workers import default_workers
from tests.data.pictures import PLAIN, folder, same


@pytest.mark.parametrize("workers", [0, 2])
def test_generators_of_the_process_are_left_alone(pictures, workers):
    train, test = folder(pictures, workers=workers)
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    list(train.batches(3, PLAIN, augmentation=Augmentation(flip=True)).train(0, 0))
    list(test.batches(3, PLAIN).test())
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_end_with_the_epoch(pictures, workers):
    train, _ = folder(pictures, workers=workers)
    epoch = train.batches(2, PLAIN).train(0, 0)
    next(epoch)
    assert len(multiprocessing.active_children()) == workers
    epoch.close()
    assert not multiprocessing.active_children()


def test_only_the_parent_ends_processes(pictures):
    """Ctrl-C, and SIGTERM to all of a job, reach them; the parent then still wants the batches it has asked for."""
    train, _ = folder(pictures, workers=2)
    expected = list(train.batches(1, PLAIN).train(0, 0))
    epoch = train.batches(1, PLAIN).train(0, 0)
    served = [next(epoch)]
    children = multiprocessing.active_children()
    for number in ("-INT", "-TERM", "-TERM"):
        subprocess.run(["kill", number, *(str(child.pid) for child in children)], check=True)
    assert same([*served, *epoch], expected)
    epoch = train.batches(1, PLAIN).train(0, 0)
    next(epoch)
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
        child.join(10)
    assert [child.exitcode for child in children] == [0, 0]


def test_a_killed_process_is_reported(pictures):
    train, _ = folder(pictures, workers=1)
    epoch = train.batches(1, PLAIN).train(0, 0)
    next(epoch)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(OSError, match="a process that decodes images has died.*use fewer: --data-options"):
        list(epoch)


def test_processes_end_with_their_parent(pictures):
    source = (
        "import multiprocessing, time; from bam.data import load\n"
        f"train, _ = load('folder:{pictures}', size=16, workers=2)\n"
        "epoch = train.batches(1, train.normalization()).train(0, 0); next(epoch)\n"
        "print(*(child.pid for child in multiprocessing.active_children()), flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    children = [int(word) for word in parent.stdout.readline().split()]
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    assert len(children) == 2
    while any(is_running(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_default_of_workers(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [default_workers(images, 1) for images in (100, 100_000)] == [0, 11]
    assert default_workers(100_000, 4) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # of 4 processes on two machines
    assert default_workers(100_000, 4) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: 200)
    assert default_workers(100_000, 1) == 16
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_workers(100_000, 1) == 1
