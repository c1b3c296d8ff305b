"""Tasks are equal rooms: with two of them removed, everything else works, and it is said what is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import bam.tasks
from bam.tasks import NETWORKS, TASKS
from tests.data.pictures import paint

#: The command, verb by verb, in a process in which the room cannot be imported, as if its folder were not there.
BLOCKED = """
import contextlib, io, json, sys
sys.modules["bam.tasks.detection"] = sys.modules["bam.tasks.vqa"] = None
from bam.cli import main
results = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            status = main(words)
        except SystemExit as left:
            status = left.code
    results.append([status, out.getvalue() + errors.getvalue()])
print(json.dumps(results))
"""
SHORT = ["--epochs", "1", "--batch-size", "32", "--device", "cpu"]
SHORT += ["--data-options", '{"num_train": 64, "num_test": 32, "canvas": 16}']
WORK = [
    (["models"], "cifar/resnet50"),
    (["recipes"], "digits/detection"),
    (["sites", "--model", "resnet18", "--no-latency"], "layer3"),
    (["cost", "--model", "resnet18", "--attention", "bam"], "11,713,405 parameters"),
    (["paper", "--table", "detection"], "its task is not available here"),
    (["paper", "--table", "dilation"], "24,066,909"),
    (["train", "--recipe", "digits/small", "--help"], "--crop-padding"),
    (["train", "--recipe", "digits/small", *SHORT, "--attention", "bam", "--out", "run"], "weights in run"),
    (["compare", "--recipe", "digits/small", *SHORT, "--seeds", "1", "--out", "out"], "bam - none"),
    (["evaluate", "run", "--device", "cpu"], "test error"),
    (["predict", "run", "photo.png", "--device", "cpu"], "predictions.csv"),
]
REFUSED = [
    ["train", "--recipe", "digits/detection"],
    ["compare", "--recipe", "coco/small", "--attention", "bam"],
    ["cost", "--model", "ssd300_vgg16"],
    ["sites", "--model", "fasterrcnn_resnet50_fpn"],
    ["train", "--recipe", "vqa/digits"],
]


def test_the_names_of_a_tasks_networks_are_known_without_it():
    from bam.tasks.detection.detectors import DETECTORS

    assert set(NETWORKS["detection"]) == set(DETECTORS)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    verbs = json.dumps([*(words for words, _ in WORK), *REFUSED])
    command = [sys.executable, "-c", BLOCKED, verbs]
    here = tmp_path_factory.mktemp("here")
    paint(here / "photo.png", 0)
    run = subprocess.run(command, cwd=here, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("number", range(len(WORK)), ids=[" ".join(words[:3]) for words, _ in WORK])
def test_everything_else_works(results, number):
    status, output = results[number]
    assert status == 0 and WORK[number][1] in output


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[" ".join(words[:3]) for words in REFUSED])
def test_what_is_missing_is_reported_in_a_sentence(results, number):
    status, output = results[len(WORK) + number]
    task = "vqa" if "vqa/digits" in REFUSED[number] else "detection"
    assert status == 1 and f"the task {task} is not available here" in output


def test_tasks_import_none_of_each_other():
    for folder in (Path(bam.tasks.__file__).parent / name for name in TASKS):
        source = "\n".join(path.read_text() for path in folder.rglob("*.py"))
        assert not any(f"bam.tasks.{other}" in source for other in TASKS if other != folder.name)
