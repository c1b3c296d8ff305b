"""Runs that version 0.1 wrote, before recipes had a class for each task: they load, and go on bit for bit.

`earlier/<task>` was made by the commit d314b11 in the environment below and stopped after step 11 of 16; the same run,
left alone, ended in the weights of `finished.sha256` and wrote `finished-steps.csv`.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bam.recipes import Recipe
from bam.records import Record

EARLIER = Path(__file__).parent / "earlier"
ROOT = Path(__file__).parents[2]
#: Arithmetic that is the same on every x86 processor.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE",
}  # fmt: skip


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_a_run_of_the_version_before_goes_on_bit_for_bit(task, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(EARLIER / task, folder)
    recipe = ["--recipe", str(folder / "recipe.yaml"), "--out", str(folder), "--resume"]
    command = [sys.executable, "-m", "bam", "train", *recipe, "--device", "cpu", "--trust-code"]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT / "src")}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "epoch 1/2" not in run.stdout and "epoch 2/2" in run.stdout
    steps = [[float(cell) for cell in line.split(",")] for line in _rows(folder / "steps.csv")]
    expected = [[float(cell) for cell in line.split(",")] for line in _rows(folder / "finished-steps.csv")]
    torch.testing.assert_close(torch.tensor(steps), torch.tensor(expected), rtol=1e-3, atol=1e-5)
    if _arithmetic_of(Record.read(EARLIER / task)) != _arithmetic_of(Record.read(folder)):
        pytest.skip("another processor or torch than the run was made with: its losses agree, bits cannot be compared")
    weights = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == (folder / "finished.sha256").read_text().strip()


def _rows(path):
    return path.read_text().splitlines()[1:]


def _arithmetic_of(record):
    return record.environment["processor"], record.environment["versions"]["torch"]


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_a_record_of_the_version_before_says_the_same(task):
    record, written = Record.read(EARLIER / task), json.loads((EARLIER / task / "record.json").read_text())
    recipe = Recipe.from_dict(record.recipe)
    assert recipe.task == task and recipe == Recipe.from_yaml(EARLIER / task / "recipe.yaml")
    spec = {
        "classification": "bam(reduction=2, sites=stage1, identity=true)",
        "detection": "bam(sites=backbone.stage1)",
    }
    assert str(recipe.attention) == spec[task] and recipe.evaluate_every == written["recipe"]["evaluate_every"]
    assert record.normalization == written["normalization"]
    assert record.history == written["history"] and record.cost == written["cost"]
