"""The benchmarks run, and docs/performance.md is what they make of results.csv."""

import csv
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from bam.models import build

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


def small(name, results, *arguments):
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--rounds", "3", "--threads", "1", *arguments]
    subprocess.run([*command, "--results", str(results)], check=True, capture_output=True, text=True)
    with open(results, newline="") as file:
        return list(csv.DictReader(file))


def test_the_module_is_compared_with_both_structures(tmp_path):
    rows = small("module", tmp_path / "results.csv", "--batch", "2", "--shrink", "8")
    paths = ["released", "plain", "bam", "bam recompute", "bam inductor", "gate alone"]
    paths += ["gate alone, inductor", "copy of F"]
    assert [(row["phase"], row["path"]) for row in rows] == [
        (phase, p) for phase in ("forward", "training") for p in paths
    ]
    assert all(float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"]) for row in rows)
    assert {row["over"] for row in rows} == {"released"} and {row["ratio"] for row in rows[::8]} == {"1.000"}
    assert {row["floors"] for row in rows if row["path"] == "copy of F"} == {"0.67", "0.25"}
    saved = [float(row["saved"]) for row in rows[8:13]]
    assert saved[0] > saved[2] > saved[3] == saved[4]


@pytest.mark.slow
def test_decoding_is_compared_with_image_folder(tmp_path):
    rows = small("decoding", tmp_path / "results.csv", "--files", "2")
    assert [row["path"] for row in rows] == 3 * ["ImageFolder", "bam"]
    assert [row["shape"] for row in rows[::2]] == [
        f"2 JPEGs of {size} to 224" for size in ("500 x 375", "1600 x 1200", "4000 x 3000")
    ]
    assert float(rows[5]["ratio"]) < 1  # of large files, fewer pixels are decoded


@pytest.mark.slow
def test_latency_is_measured_in_each_way_of_running(tmp_path):
    rows = small("inference", tmp_path / "results.csv", "--models", "cifar/resnet8", "--image", "32")
    ways = ["eager", "fused", "compiled", "onnxruntime", "onnxruntime int8"]
    assert [row["shape"] for row in rows[::2]] == [f"batch 1, 32 x 32, {way}" for way in ways]
    assert [row["path"] for row in rows] == 5 * ["none", "bam"]
    assert {row["ratio"] for row in rows[::2]} == {"1.000"} and all(float(row["ratio"]) > 1 for row in rows[1::2])


@pytest.mark.slow
def test_fine_tuning_is_compared_in_each_condition(tmp_path):
    generator = np.random.default_rng(0)
    for part, label, k in itertools.product(("train", "val"), (0, 1), range(20)):
        file = tmp_path / "photos" / part / f"class{label}" / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(80 * label, 80 * label + 100, (40, 40, 3)).astype(np.uint8)).save(file)
    save_file(build("cifar/resnet8", num_classes=10).state_dict(), tmp_path / "weights.safetensors")
    command = [sys.executable, str(BENCHMARKS / "finetuning.py"), str(tmp_path / "runs"), str(tmp_path / "photos")]
    command += ["--weights", str(tmp_path / "weights.safetensors"), "--model", "cifar/resnet8", "--seeds", "2"]
    printed = subprocess.run([*command, "--size", "32"], check=True, capture_output=True, text=True).stdout
    rows = [row.split("|")[1].strip() for row in printed.splitlines() if row.startswith("| ")]
    assert rows == ["test error, %", "none", "attention's rate x 10 (default)", *rows[3:]] and len(rows) == 7
    scales = {
        name: json.loads((tmp_path / "runs" / "photos" / f"{name}-seed0" / "record.json").read_text())["final"]
        for name in ("rate_x_1", "rate_x_100")
    }
    assert scales["rate_x_1"]["train_loss"] != scales["rate_x_100"]["train_loss"]


def test_the_page_is_made_from_the_rows(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import page

    written = (ROOT / "docs" / "performance.md").read_text()
    monkeypatch.setattr(page, "DOCS", tmp_path)
    page.main()
    assert (tmp_path / "performance.md").read_text() == written, "python benchmarks/page.py writes it again"
    assert (tmp_path / "performance.svg").read_text().startswith("<?xml")


def test_a_soak_samples_a_command_and_ends_as_it_does(tmp_path):
    """A command that takes three steps, with a child of its own, and fails."""
    code = (
        "import pathlib, subprocess, sys, time; steps = pathlib.Path('runs/a/steps.csv'); time.sleep(1)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])\n"
        "steps.write_text('step\\n0\\n1\\n2\\n'); time.sleep(1); child.kill(); sys.exit(3)"
    )
    (tmp_path / "runs" / "a").mkdir(parents=True)
    words = [str(BENCHMARKS / "soak.py"), "--csv", "soak.csv", "--runs", "runs", "--every", "0.2", "--"]
    assert subprocess.run([sys.executable, *words, sys.executable, "-c", code], cwd=tmp_path).returncode == 3
    with open(tmp_path / "soak.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["steps"]) for row in rows) == 3 and {row["runs"] for row in rows} == {"", "a"}
    descriptors = [int(row["descriptors"]) for row in rows]  # the last may be 0: the command has just ended
    assert max(descriptors) > descriptors[0] > 0 and int(rows[0]["memory_mib"]) > 0


@pytest.mark.slow
def test_the_gpu_script_does_everything_at_a_small_size(tmp_path):
    variables = {"SMALL": "1", "DEVICE": "cpu", "SEEDS": "1", "PYTHON": sys.executable, "WORK": str(tmp_path / "work")}
    results = tmp_path / "results.csv"
    command = [str(BENCHMARKS / "gpu.sh")]
    environment = os.environ | variables | {"RESULTS": str(results)}
    broken = environment | {"EPOCHS": "none"}  # a part that fails does not keep the others from running
    run = subprocess.run(command, env=broken, capture_output=True, text=True)
    assert run.returncode == 1 and "not done: cifar-resnet50 cifar-resnet18 cifar-resnet20" in run.stdout, run.stdout
    with open(results, newline="") as file:
        assert {row["benchmark"] for row in csv.DictReader(file)} == {"module", "network", "loop", "scaling"}
    rows = results.read_text()
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and "module: done before" in run.stdout and "all done" in run.stdout, run.stdout
    assert results.read_text() == rows
    assert (tmp_path / "work" / "cifar-resnet50" / "report.html").exists()
