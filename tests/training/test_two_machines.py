"""Two machines: two agents of torchrun that meet on the loopback, each with one process."""

import os
import socket
import subprocess
import sys

import psutil
import pytest

from bam.records import Record
from bam.training.states import newest_step
from tests.training.test_training import wait_for

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
WAIT = 300  # seconds for an agent to end; torchrun's start alone takes up to a minute on a busy machine
TRAIN = [
    *("-m", "bam", "train", "--recipe", "digits/small", "--attention", "bam", "--resume", "--device", "cpu"),
    *("--data-options", '{"num_train": 320, "num_test": 100, "canvas": 16}', "--batch-size", "32", "--epochs", "4"),
    *("--precision", "fp32", "--save-minutes", "0", "--out"),
]


def agent(port, out, is_host):
    """One machine's agent; the host's holds what agents tell each other."""
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    meeting += ["--rdzv-conf", f"is_host={is_host}"]  # which torchrun sees by the host name on real machines
    command = [*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", *meeting, *TRAIN, str(out)]
    with open(f"{out}.log", "a") as log:
        return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=log)


def kill(process):
    """Kill an agent and what it has started, as if its machine had gone."""
    gone = psutil.Process(process.pid)
    for each in (*gone.children(recursive=True), gone):
        each.kill()
    process.wait()


@pytest.mark.slow
def test_a_killed_machine_comes_back(tmp_path):
    """One agent and its process are killed, and the other ends; started again, both go on to the same bits."""
    subprocess.run([*TORCHRUN, "--nproc-per-node", "2", *TRAIN, str(tmp_path / "whole")], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    first, second = (agent(port, tmp_path / "two", is_host) for is_host in (True, False))
    try:
        wait_for(lambda: (newest_step(tmp_path / "two") or 0) >= 3, first)
        kill(second)
        assert first.wait(WAIT) == 1
        assert "bam train: another process of this training has ended" in (tmp_path / "two.log").read_text()
        first, second = (agent(port, tmp_path / "two", is_host) for is_host in (True, False))
        assert [first.wait(WAIT), second.wait(WAIT)] == [0, 0]
    finally:
        for process in (first, second):
            if process.poll() is None:
                kill(process)
    record = Record.read(tmp_path / "two")
    assert [stretch["processes"] for stretch in record.stretches] == [2, 2]
    assert 3 <= record.stretches[1]["from_step"] < 40
    whole, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "two"))
    assert two == whole
