"""Sixty kills at random moments, with a state saved at every step: the runs that go on end bit-equal."""

import json
import multiprocessing
import random
import time

import pytest

from bam import cli
from bam.training.states import newest_step

KILLS = 20  # of each command
FLAGS = ["--epochs", "8", "--batch-size", "16", "--precision", "fp32", "--save-minutes", "0", "--device", "cpu"]
DIGITS = ["--recipe", "digits/small", "--data-options", '{"num_train": 320, "num_test": 100, "canvas": 16}']
QUESTIONS = ["--recipe", "vqa/digits", "--data-options", '{"num_train": 256, "num_test": 24, "canvas": 48}']
SERVER = multiprocessing.get_context("forkserver")  # its processes have everything imported
SERVER.set_forkserver_preload(["bam.training", "bam.reports", "sklearn.datasets", "bam.tasks.classification"])


def started(*words):
    process = SERVER.Process(target=cli.main, args=([*words, *FLAGS],))
    process.start()
    return process


def progress(folder):
    """Grows with each state saved and each run completed."""
    saved = sum(newest_step(run) or 0 for run in {path.parent for path in folder.rglob("state-*.pt")})
    return saved + len(list(folder.rglob("model.safetensors")))


def kill_and_resume(folder, *words):
    """Kill the command a moment after it has made progress, again and again; then let it end."""
    chance = random.Random(0)
    for _ in range(KILLS):
        before, process = progress(folder), started(*words)
        while progress(folder) == before:
            assert process.is_alive(), f"it ended by itself at {before}"
            time.sleep(0.001)
        time.sleep(chance.random() / 20)
        process.kill()
        process.join()
        assert process.exitcode == -9
    finish(*words)


def finish(*words):
    process = started(*words)
    process.join()
    assert process.exitcode == 0


def results(folder):
    """Weights and steps of each run as they are, and the measures of each epoch."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    equal = {name: path.read_bytes() for name, path in files.items() if path.name in ("model.safetensors", "steps.csv")}
    histories = {
        name: json.loads(path.read_text())["history"] for name, path in files.items() if name.name == "record.json"
    }
    measures = {
        name: [{key: value for key, value in row.items() if key.startswith("test_")} for row in history]
        for name, history in histories.items()
    }
    return equal, measures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        ("train", [*DIGITS, "--attention", "bam"]),
        ("train", [*QUESTIONS, "--attention", "bam", "--cross-modal", "question_guided"]),
        ("compare", [*DIGITS, "--attention", "none,bam", "--seeds", "2"]),
    ],
    ids=["train", "questions", "compare"],
)
def test_twenty_kills_change_nothing(verb, flags, tmp_path):
    finish(verb, *flags, "--out", str(tmp_path / "whole"))
    resume = ["--resume"] if verb == "train" else []
    kill_and_resume(tmp_path / "killed", verb, *flags, *resume, "--out", str(tmp_path / "killed"))
    equal, measures = results(tmp_path / "whole")
    assert len(equal) == 2 * len(measures) == (2 if verb == "train" else 8)
    assert results(tmp_path / "killed") == (equal, measures)
