"""The comparison at equal training time, by hand."""

import pytest

from bam.records import TEST_ERROR, Measure, Record
from bam.reports import summarize
from bam.reports.equal_time import at_equal_time


def run(seed, seconds, errors, held_out=None):
    rows = [
        {"epoch": k, "seconds": seconds[k - 1], "test_error": error, "images_per_second": 1.0, "train_loss": 1.0}
        for k, error in enumerate(errors, start=1)
    ]
    for row, value in zip(rows, held_out or [], strict=False):
        row["validation_error"] = value
    final = {"test_error": errors[-1], "images_per_second": 1.0}
    return Record({"seed": seed}, cost={"params": 1, "macs": 1}, history=rows, final=final, measures=[TEST_ERROR])


def test_by_hand():
    """The clocks stop after 3 s for seed 0 and 6 s for seed 1, when "none" ends."""
    complete = {
        "none": {0: run(0, [1, 1, 1], [0.5, 0.4, 0.3]), 1: run(1, [2, 2, 2], [0.6, 0.5, 0.4])},
        "slow": {0: run(0, [2, 2, 2], [0.45, 0.3, 0.2]), 1: run(1, [3, 3, 3], [0.5, 0.35, 0.3])},
    }
    equal = at_equal_time(complete, TEST_ERROR)
    none, slow = equal["variants"]
    assert (equal["fastest"], equal["seconds"], equal["seeds"]) == ("none", 4.5, [0, 1])
    assert none["epochs"] == [3, 3] and none["results"] == pytest.approx([30, 40]) and none["difference"] is None
    assert slow["seconds"] == 7.5 and slow["epochs"] == [1, 2] and slow["results"] == pytest.approx([45, 35])
    assert slow["mean"] == pytest.approx(40) and slow["difference"] == pytest.approx(5)  # 15 and -5
    low, high = slow["interval"]
    assert (low, high) == pytest.approx((5 - 12.7062047 * 10, 5 + 12.7062047 * 10))  # t(1) * 14.142 / sqrt(2)
    summary = summarize({name: list(runs.values()) for name, runs in complete.items()})
    assert summary["equal_time"] == equal
    assert summary["comparisons"][0]["mean"] == pytest.approx(-10)  # at equal epochs the slow one is better


def test_a_variant_that_is_faster_than_the_baseline():
    complete = {"none": {0: run(0, [2, 2], [0.5, 0.2])}, "fast": {0: run(0, [1, 1], [0.6, 0.3])}}
    none, fast = at_equal_time(complete, TEST_ERROR)["variants"]
    assert none["epochs"] == [1] and none["results"] == pytest.approx([50])
    assert fast["epochs"] == [2] and fast["difference"] == pytest.approx(-20) and fast["interval"] is None


def test_held_out_images_choose_among_the_epochs_that_had_ended():
    complete = {
        "none": {0: run(0, [1, 1, 1], [0.5, 0.4, 0.3], [0.5, 0.4, 0.3])},
        "slow": {0: run(0, [1, 1, 2], [0.45, 0.5, 0.1], [0.2, 0.3, 0.1])},
    }
    assert at_equal_time(complete, TEST_ERROR)["variants"][1]["epochs"] == [1]
    higher = Measure("test_error", "AP", "", higher_is_better=True)
    assert at_equal_time(complete, higher)["variants"][1]["epochs"] == [2]


def test_what_had_not_been_evaluated_by_then():
    complete = {
        "none": {0: run(0, [1], [0.5]), 1: run(1, [9], [0.5])},
        "slow": {0: run(0, [8], [0.4]), 1: run(1, [8], [0.4])},
    }
    slow = at_equal_time(complete, TEST_ERROR)["variants"][1]
    assert slow["epochs"] == [None, 1] and slow["results"] == [None, pytest.approx(40)]
    assert slow["mean"] is slow["difference"] is None


def test_without_times_or_common_seeds_there_is_none():
    timeless = run(0, [1], [0.5])
    del timeless.history[0]["seconds"]
    assert at_equal_time({"none": {0: run(0, [1], [0.5])}, "bam": {0: timeless}}, TEST_ERROR) is None
    assert at_equal_time({"none": {0: run(0, [1], [0.5])}, "bam": {1: run(1, [1], [0.5])}}, TEST_ERROR) is None
