"""Training on a folder of images."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bam.data import load
from bam.recipes import ClassificationRecipe, RunOptions
from bam.records import Record
from bam.training import compare, run, training_images
from bam.training.session import Session
from tests.training.test_training import in_mid_epoch, wait_for


@pytest.fixture
def shapes(tmp_path):
    """24 images each of bright and of dark squares on noise, in a folder of classes."""
    random = np.random.default_rng(0)
    for name, colour in (("bright", 250), ("dark squares", 5)):
        (tmp_path / "shapes" / name).mkdir(parents=True)
        for k in range(24):
            pixels = random.integers(90, 160, (24, 28, 3), dtype=np.uint8)
            top, left = random.integers(0, 10, 2)
            pixels[top : top + 12, left : left + 12] = colour
            Image.fromarray(pixels).save(tmp_path / "shapes" / name / f"{k}.png")
    return tmp_path / "shapes"


def recipe_of(path, **changes):
    options = {"size": 16, "scale": [0.5, 1.0], "workers": 0}
    recipe = ClassificationRecipe(
        data=f"folder:{path}", data_options=options, batch_size=4, epochs=2, precision="fp32", flip=True
    )
    return recipe.replace(attention="bam", **changes)


def test_a_network_learns_from_a_folder(shapes, tmp_path):
    record = run(recipe_of(shapes, epochs=4), tmp_path / "run")
    assert record.final["train_error"] < 0.25 and record.final["test_error"] < 0.25
    assert record.classes == ["bright", "dark squares"] and record.image_size == [16, 16] and record.num_classes == 2
    assert record.normalization["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert record.normalization["std"] == pytest.approx([0.229, 0.224, 0.225])
    assert all("unreadable" not in row for row in record.history)
    assert Record.read(tmp_path / "run") == record
    train, _ = load(f"folder:{shapes}", size=16, workers=0)
    seen = training_images(record, count=10)
    images = torch.cat([image for image, _ in train.batches(8, train.normalization()).test()])
    matches = [(images == image).flatten(1).all(1).nonzero().flatten().tolist() for image in seen]
    assert all(matches) and len({match[0] for match in matches}) == 10  # as they are, and not the first ones


class Stop(Exception):
    pass


def test_a_resumed_run_is_bit_equal_and_counts_what_it_could_not_read(shapes, tmp_path, monkeypatch, capsys):
    for path in sorted(shapes.rglob("*.png"))[::8]:
        path.write_bytes(path.read_bytes()[:-40])
    recipe = recipe_of(shapes)
    skipping = recipe.replace(data_options=recipe.data_options | {"unreadable": "skip"})
    whole = run(skipping, tmp_path / "whole")
    train, test = load(recipe.data, **skipping.data_options)
    expected = []
    for epoch in range(2):
        batches, tested = train.batches(4, train.normalization()), test.batches(4, train.normalization())
        list(batches.train(0, epoch)), list(tested.test())
        expected.append(batches.take_unreadable().count + tested.take_unreadable().count)
    assert [row["unreadable"] for row in whole.history] == expected and 3 <= expected[0] <= 6
    printed = capsys.readouterr().out
    assert f"unreadable images left out in this epoch: {expected[0]}, e.g. {shapes}" in printed

    with pytest.raises(ValueError, match="cannot be read as an image"):
        run(recipe, tmp_path / "parts", RunOptions(save_minutes=0))
    stopped = max(int(path.name.split("-")[1]) for path in (tmp_path / "parts").glob("state-*.pt"))

    stops = iter((stopped + 2, 14))  # in the first and in the second epoch
    stop_at = next(stops)

    def save(self, original=Session.save):
        nonlocal stop_at
        original(self)
        if self.progress.step == stop_at:
            stop_at = next(stops, None)
            raise Stop

    monkeypatch.setattr(Session, "save", save)
    for workers in (0, 2):
        changed = skipping.replace(data_options=skipping.data_options | {"workers": workers})
        with pytest.raises(Stop):
            run(changed, tmp_path / "parts", RunOptions(save_minutes=0), resume=True)
    parts = run(skipping, tmp_path / "parts", resume=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
    timeless = [
        [{key: row[key] for key in row if key not in ("seconds", "images_per_second")} for row in record.history]
        for record in (whole, parts)
    ]
    assert timeless[0] == timeless[1]


def test_other_options_of_the_data_are_another_recipe(shapes, tmp_path):
    run(recipe_of(shapes, epochs=1), tmp_path / "run")
    other = recipe_of(shapes, epochs=1)
    with pytest.raises(ValueError, match="another recipe.*data_options"):
        run(other.replace(data_options=other.data_options | {"size": 17}), tmp_path / "run")


def test_a_folder_that_cannot_be_trained_on_is_refused(shapes, tmp_path):
    with pytest.raises(ValueError, match="crop_padding 4.*set crop_padding to 0"):
        run(recipe_of(shapes, crop_padding=4), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_request_to_stop_that_reaches_the_workers_too_saves_the_state(shapes, tmp_path, number):
    options = json.dumps({"size": 16, "workers": 2})
    command = [
        *(sys.executable, "-m", "bam", "train", "--recipe", "digits/small", "--data", f"folder:{shapes}"),
        *("--data-options", options, "--epochs", "2000", "--batch-size", "2", "--out", str(tmp_path / "run")),
        *("--save-minutes", "0.001"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: in_mid_epoch(tmp_path / "run"), process)
    os.killpg(process.pid, number)
    _, message = process.communicate(timeout=60)  # until all who could write to its pipes have ended
    assert process.returncode == 128 + number and "Traceback" not in message
    assert message.startswith("bam train: stopped after step") and "the state is saved" in message
    assert len(message.splitlines()) == 2 and message.rstrip().endswith("--resume")


@pytest.mark.slow
def test_two_processes_train_though_one_cannot_read_its_share(shapes, tmp_path):
    """torchrun on two CPU processes, most images damaged: nobody waits for the other, all is counted."""
    damaged = [path for number, path in enumerate(load(f"folder:{shapes}")[0].paths) if number % 6]
    for path in damaged:
        Path(path).write_bytes(b"")
    options = json.dumps({"size": 16, "unreadable": "skip", "workers": 1})
    command = [
        *("-m", "bam", "train", "--recipe", "digits/small", "--data", f"folder:{shapes}", "--device", "cpu"),
        *("--data-options", options, "--epochs", "2", "--batch-size", "2", "--out", str(tmp_path / "run")),
    ]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *command],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    record = Record.read(tmp_path / "run")
    assert record.complete and [row["unreadable"] for row in record.history] == 2 * [len(damaged)]
    assert load_file(tmp_path / "run" / "model.safetensors")


def test_a_run_goes_on_with_its_own_images_only(shapes, tmp_path):
    recipe = recipe_of(shapes, epochs=1)
    compare(recipe, ["none"], 1, tmp_path / "out")
    before = load(f"folder:{shapes}")[0].fingerprint
    moved = shapes.rename(tmp_path / "moved")  # the place does not matter, the files do
    assert load(f"folder:{moved}")[0].fingerprint == before
    moved.rename(shapes)
    (shapes / "bright" / "3.png").rename(shapes / "bright" / "333.png")
    with pytest.raises(
        ValueError, match="none-seed0 holds a run on other images: files were added, removed or renamed"
    ):
        compare(recipe, ["none"], 2, tmp_path / "out")
    record = Record.read(tmp_path / "out" / "none-seed0")
    record.final = {}
    record.write(tmp_path / "out" / "none-seed0")
    with pytest.raises(ValueError, match="holds a run on other images"):
        run(recipe.replace(attention="none"), tmp_path / "out" / "none-seed0", resume=True)
