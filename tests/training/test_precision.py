"""Precision "auto" is measured once, and everything that is compared shares it."""

import sys

import pytest
import torch

from bam.recipes import ClassificationRecipe, Recipe
from bam.records import Record
from bam.training import compare, precision, run
from bam.training.comparison import read_comparison

TINY = ClassificationRecipe(data_options={"num_train": 64, "num_test": 20, "canvas": 16}, batch_size=16, epochs=1)
CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch):
    """A CPU with bf16, on which the measurement says what this list says; it lists the measured recipes, too."""
    answers, asked = ["bf16"], []

    def fastest(recipe, train, device):
        asked.append(recipe)
        return answers[0], {"fp32": 2.0, "bf16": 1.0}

    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    monkeypatch.setattr(sys.modules["bam.training.run"], "fastest", fastest)
    return answers, asked


def test_a_run_keeps_what_was_measured_first(measured, tmp_path):
    answers, asked = measured
    record = run(TINY, tmp_path)
    assert record.recipe["precision"] == record.environment["precision"] == "bf16"
    assert record.step_ms == Record.read(tmp_path).step_ms == {"fp32": 2.0, "bf16": 1.0}
    answers[0] = "fp32"
    assert run(TINY, tmp_path, resume=True).recipe["precision"] == "bf16" and len(asked) == 1


def test_a_comparison_measures_once(measured, tmp_path):
    answers, asked = measured
    compare(TINY, ["none", "bam"], 1, tmp_path)
    answers[0] = "fp32"
    compare(TINY, ["none", "bam", "se"], 2, tmp_path)
    records, plan = read_comparison(tmp_path)
    assert {r.recipe["precision"] for runs in records.values() for r in runs} == {"bf16"} and len(asked) == 1
    assert plan["step_ms"] == {"fp32": 2.0, "bf16": 1.0} and plan["recipe"]["precision"] == "bf16"


def test_a_comparison_of_before_keeps_the_precision_of_its_runs(measured, tmp_path):
    compare(TINY.replace(precision="fp32"), ["none"], 1, tmp_path)
    (tmp_path / "recipe.yaml").write_text(TINY.to_yaml())  # which used to say "auto"
    compare(TINY, ["none"], 2, tmp_path)
    assert {r.recipe["precision"] for r in read_comparison(tmp_path)[0]["none"]} == {"fp32"} and not measured[1]


def test_nothing_is_measured_where_there_is_no_choice(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    monkeypatch.setattr(sys.modules["bam.training.run"], "fastest", None)
    record = run(TINY, tmp_path)
    assert record.recipe["precision"] == "fp32" and record.step_ms == {}
    assert Recipe.from_yaml(tmp_path / "recipe.yaml").precision == "fp32"


def test_the_measurement_prefers_the_faster_one(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    train, _ = precision.task_of(TINY).load(None)
    seconds = {"fp32": 1.0, "bf16": 0.5}
    monkeypatch.setattr(precision, "_timed_step", lambda task, network, batch, name: seconds[name])
    assert precision.fastest(TINY, train, CPU) == ("bf16", {"fp32": 1000.0, "bf16": 500.0})
    seconds["bf16"] = 0.97  # not clearly faster
    assert precision.fastest(TINY, train, CPU)[0] == "fp32"


def test_steps_are_timed_for_real(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    train, _ = precision.task_of(TINY).load(None)
    name, times = precision.fastest(TINY, train, CPU)
    assert name in times and times.keys() == {"fp32", "bf16"} and min(times.values()) > 0
