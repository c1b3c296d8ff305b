"""Curves go where --log says."""

import csv

import pytest

from bam.recipes import ClassificationRecipe, RunOptions
from bam.training import compare, run
from bam.training.trackers import trackers_of

TINY = ClassificationRecipe(
    data_options={"num_train": 64, "num_test": 20, "canvas": 16}, batch_size=16, epochs=2, precision="fp32"
)


def test_tensorboard_has_the_steps_and_the_epochs(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="comes with the dev extra"
    )
    record = run(TINY, tmp_path, RunOptions(log="tensorboard,csv"))
    events = accumulator.EventAccumulator(str(tmp_path / "logs" / "bam"))
    events.Reload()
    steps = [line.split(",") for line in (tmp_path / "steps.csv").read_text().splitlines()[1:]]
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == [int(row[0]) for row in steps] == list(range(8))
    assert [event.value for event in losses] == pytest.approx([float(row[2]) for row in steps])
    errors = events.Scalars("test_error")
    assert [event.step for event in errors] == [4, 8]
    assert [event.value for event in errors] == pytest.approx([row["test_error"] for row in record.history])
    rows = list(csv.DictReader((tmp_path / "epochs.csv").read_text().splitlines()))
    assert [float(row["test_error"]) for row in rows] == [row["test_error"] for row in record.history]


def test_a_comparison_sends_its_pictures(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="comes with the dev extra"
    )
    compare(TINY, ["none", "bam"], 1, tmp_path, RunOptions(log="tensorboard"))
    events = accumulator.EventAccumulator(str(tmp_path / "logs" / "bam"), size_guidance={"images": 0})
    events.Reload()
    pictures = {str(path.relative_to(tmp_path).with_suffix("")) for path in tmp_path.glob("attention/**/*.png")}
    assert pictures
    assert {name.removesuffix("/image/0") for name in events.Tags()["images"]} == pictures


def test_logging_changes_nothing(tmp_path):
    plain, logged = (run(TINY, tmp_path / log, RunOptions(log=log)) for log in ("", "csv"))
    assert [row["test_error"] for row in plain.history] == [row["test_error"] for row in logged.history]
    assert not (tmp_path / "epochs.csv").exists()


def test_unknown_trackers_and_absent_ones(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="log: unknown tracker 'tensorbord'; known: csv, "):
        compare(TINY, ["none"], 1, tmp_path, RunOptions(log="csv,tensorbord"))
    monkeypatch.setattr("bam.training.trackers.filter_trackers", lambda *_: [])
    with pytest.raises(ImportError, match="log: wandb is not installed: pip install wandb"):
        trackers_of("wandb")
