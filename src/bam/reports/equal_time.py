"""Comparison at equal training time: each variant's result when the fastest one finished."""

import math
from collections.abc import Mapping
from itertools import accumulate
from statistics import fmean
from typing import Any

from bam.records import Measure, Record
from bam.reports.statistics import paired_difference, standard_deviation


def at_equal_time(complete: Mapping[str, Mapping[int, Record]], measure: Measure) -> dict[str, Any] | None:
    """Compare variants at the fastest variant's training time; the first variant is the baseline.

    The fastest variant has the shortest mean training time. For each seed, the clock stops when its run ends. Each
    other run of that seed counts with the last evaluated epoch that had ended by then or, if held-out images choose the
    epoch, with the best of those epochs. Only seeds that all variants share count.

    Args:
        complete: variant -> seed -> complete run.
        measure: the measure to compare.

    Returns:
        The comparison as plain data, in percent; None if the histories lack times or the variants share no seed.
    """
    seeds = sorted(set.intersection(*(set(runs) for runs in complete.values())))
    if not seeds or not all(_is_timed(runs[seed]) for runs in complete.values() for seed in seeds):
        return None
    totals = {name: fmean(_clock(runs[seed])[-1] for seed in seeds) for name, runs in complete.items()}
    fastest = min(totals, key=totals.__getitem__)
    limits = {seed: _clock(complete[fastest][seed])[-1] for seed in seeds}
    reached = {name: [_reached(runs[seed], limits[seed], measure) for seed in seeds] for name, runs in complete.items()}
    baseline = next(iter(complete))
    variants = [
        {"name": name, "seconds": totals[name], **_results(pairs), **_against(reached[baseline], pairs, measure)}
        for name, pairs in reached.items()
    ]
    for variant in variants:
        if variant["name"] == baseline:
            variant |= {"difference": None, "interval": None}
    seconds = fmean(limits.values())
    return {"fastest": fastest, "baseline": baseline, "seconds": seconds, "seeds": seeds, "variants": variants}


_Reached = tuple[int, float] | None  #: (epoch, measure in percent); None if no epoch had been evaluated by then


def _reached(run: Record, limit: float, measure: Measure) -> _Reached:
    """The epoch that counts if the clock stops after `limit` seconds, and its measure in percent."""
    rows = [
        row
        for row, seconds in zip(run.history, _clock(run), strict=True)
        if seconds <= limit and measure.key in row and math.isfinite(row[measure.key])
    ]
    if not rows:
        return None
    held_out = "validation_" + measure.key.removeprefix("test_")
    sign = 1 if measure.higher_is_better else -1
    # On a tie the first wins, as in training.
    row = max(rows, key=lambda row: sign * row[held_out]) if all(held_out in row for row in rows) else rows[-1]
    return int(row["epoch"]), 100 * row[measure.key]


def _results(pairs: list[_Reached]) -> dict[str, Any]:
    """Each seed's epoch and result, None if nothing was evaluated yet; the mean only if every seed has a result."""
    results = [None if pair is None else pair[1] for pair in pairs]
    known = [result for result in results if result is not None]
    complete = len(known) == len(results)
    return {
        "epochs": [None if pair is None else pair[0] for pair in pairs],
        "results": results,
        "mean": fmean(known) if complete else None,
        "std": standard_deviation(known) if complete else None,
    }


def _against(baseline: list[_Reached], pairs: list[_Reached], measure: Measure) -> dict[str, Any]:
    both = [(before[1], after[1]) for before, after in zip(baseline, pairs, strict=True) if before and after]
    if len(both) < len(pairs):
        return {"difference": None, "interval": None}
    before, after = zip(*both, strict=True)
    difference = paired_difference(before, after, higher_is_better=measure.higher_is_better)
    return {"difference": difference.mean, "interval": list(difference.interval) if difference.interval else None}


def _clock(run: Record) -> list[float]:
    """Cumulative seconds of training at the end of each epoch."""
    return list(accumulate(row["seconds"] for row in run.history))


def _is_timed(run: Record) -> bool:
    return bool(run.history) and all(math.isfinite(row.get("seconds", math.nan)) for row in run.history)
