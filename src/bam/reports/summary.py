"""Summarise a comparison's records as plain data: measures in percent, differences in percentage points."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import accumulate
from statistics import fmean, median
from typing import Any

from bam.records import Measure, Record
from bam.reports.equal_time import at_equal_time
from bam.reports.statistics import Difference, holm, paired_difference, standard_deviation


def summarize(records: Mapping[str, list[Record]], latency_ms: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Summarise the complete records of each variant; the first variant is the baseline.

    If runs of a variant or of the baseline failed, there is no verdict: dropping diverged runs would favour that side.

    Raises:
        ValueError: if a variant has no complete record, or shares no seed with the baseline.
    """
    failures = _failures(records)
    complete, baseline = _complete(records, failures), next(iter(records))
    first = next(iter(complete[baseline].values()))
    all_runs = [run for runs in complete.values() for run in runs.values()]
    # Measures that some runs lack, e.g. top-5 error, are not compared.
    measures = [measure for measure in first.measures if all(measure.key in run.final for run in all_runs)]
    variants = [_variant(name, runs, measures, (latency_ms or {}).get(name)) for name, runs in complete.items()]
    others = [name for name in complete if name != baseline]
    pairs = {name: _pairs(baseline, name, complete) for name in others}
    differences = [_difference(pairs[name], measures[0]) for name in others]
    corrected = holm(differences) if len(others) > 1 else [None] * len(others)
    comparisons = [
        {"name": name, "baseline": baseline, "seeds": list(pairs[name]), **_as_plain(difference, holms)}
        | _withheld(failures, (name, baseline))
        for name, difference, holms in zip(others, differences, corrected, strict=True)
    ]
    return {
        "baseline": baseline,
        "recipe": first.recipe,
        "environment": first.environment,
        "other_environments": _others(first.environment, [e for run in all_runs for e in _environments(run)]),
        "failures": failures,
        "measures": [asdict(measure) for measure in measures],
        "variants": variants,
        "comparisons": comparisons,
        "further_measures": [_by_variant(measure, complete, pairs) for measure in measures[1:]],
        "equal_time": at_equal_time(complete, measures[0]),
        "classes": [],
        "pictures": [],
        "attention": [],
        "probe": None,
        "grid": None,
    }


def _failures(records: Mapping[str, list[Record]]) -> list[dict[str, Any]]:
    failed = [(name, run) for name, runs in records.items() for run in runs if run.failure]
    return [{"name": name, "seed": run.recipe["seed"], "reason": run.failure["reason"]} for name, run in failed]


def _complete(records: Mapping[str, list[Record]], failures: list[dict[str, Any]]) -> dict[str, dict[int, Record]]:
    """Variant -> seed -> complete record, without variants (other than the baseline) whose runs all failed."""
    complete = {name: {r.recipe["seed"]: r for r in runs if r.complete} for name, runs in records.items()}
    for number, (name, runs) in enumerate(complete.items()):
        failed = [f"seed {failure['seed']}: {failure['reason']}" for failure in failures if failure["name"] == name]
        if not runs and (number == 0 or not failed):
            reason = f" ({'; '.join(failed)})" if failed else " yet"
            raise ValueError(f"no run of {name!r} is complete{reason}: nothing to report")
    return {name: runs for name, runs in complete.items() if runs}


def _withheld(failures: list[dict[str, Any]], names: tuple[str, str]) -> dict[str, Any]:
    """Replace the verdict if one of these variants has failed runs."""
    failed = [f"{failure['name']} seed {failure['seed']}" for failure in failures if failure["name"] in names]
    return {"verdict": f"no verdict: {', '.join(failed)} failed"} if failed else {}


def _environments(run: Record) -> list[dict[str, Any]]:
    """A run's environments: one per stretch, as a run may be resumed elsewhere."""
    return [{k: v for k, v in stretch.items() if k != "from_step"} for stretch in run.stretches] or [run.environment]


def _variant(name: str, runs: dict[int, Record], measures: list[Measure], latency: float | None) -> dict[str, Any]:
    values = {measure.key: [100 * run.final[measure.key] for run in runs.values()] for measure in measures}
    decisive = values[measures[0].key]
    first = next(iter(runs.values()))
    return {
        "name": name,
        "params": first.cost["params"],
        "macs": first.cost["macs"],
        "sites": first.sites,
        "seeds": list(runs),
        "results": decisive,
        "all_results": values,
        "mean": fmean(decisive),
        "std": standard_deviation(decisive),
        "images_per_second": median(run.final["images_per_second"] for run in runs.values()),
        "train_seconds": _train_seconds(list(runs.values())),
        "latency_ms": latency,
        "curves": [_curve(run, measures[0].key) for run in runs.values()],
    }


def _curve(run: Record, key: str) -> list[list[float | None]]:
    """One point per evaluated epoch: epoch, measure in percent, training loss and cumulative seconds of training.

    None stands for values that are unknown or not finite.
    """
    clock = accumulate(row.get("seconds", math.nan) for row in run.history)
    return [
        [row["epoch"], *map(_finite, (100 * row[key], row.get("train_loss", math.nan), seconds))]
        for row, seconds in zip(run.history, clock, strict=True)
        if key in row
    ]


def _train_seconds(runs: list[Record]) -> float | None:
    """The mean training time per run in seconds; None if a history lacks times."""
    totals = [sum(row.get("seconds", math.nan) for row in run.history) for run in runs]
    return _finite(fmean(totals)) if all(run.history for run in runs) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _others(first: Mapping[str, Any], environments: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Environment entries that differ from the first run's: name -> the other values. Old records lack some."""
    differing: dict[str, list[Any]] = {}
    known = dict(first)
    for environment in environments:
        for name, value in environment.items():
            if value != known.setdefault(name, value) and value not in differing.setdefault(name, []):
                differing[name].append(value)
    return {name: values for name, values in differing.items() if values}


def _pairs(baseline: str, name: str, runs: dict[str, dict[int, Record]]) -> dict[int, tuple[Record, Record]]:
    """Seed -> the runs of the baseline and of `name`."""
    pairs = {seed: (runs[baseline][seed], runs[name][seed]) for seed in runs[baseline] if seed in runs[name]}
    if not pairs:
        raise ValueError(f"{name!r} and the baseline {baseline!r} have no seed in common: nothing to compare")
    return pairs


def _difference(pairs: Mapping[int, tuple[Record, Record]], measure: Measure) -> Difference:
    before, after = ([100 * pair[k].final[measure.key] for pair in pairs.values()] for k in (0, 1))
    return paired_difference(before, after, higher_is_better=measure.higher_is_better)


def _by_variant(
    measure: Measure, runs: dict[str, dict[int, Record]], pairs: dict[str, dict[int, tuple[Record, Record]]]
) -> dict[str, Any]:
    """One further measure: its mean for each variant, and its paired difference from the baseline."""
    variants = []
    for name, by_seed in runs.items():
        results = [100 * run.final[measure.key] for run in by_seed.values()]
        entry = {"name": name, "mean": fmean(results), "std": standard_deviation(results)}
        if name in pairs:
            difference = _difference(pairs[name], measure)
            entry |= {"difference": difference.mean, "interval": list(difference.interval or []) or None}
        variants.append(entry)
    return {"key": measure.key, "label": measure.label, "meaning": measure.meaning, "variants": variants}


def _as_plain(difference: Difference, corrected: Difference | None) -> dict[str, Any]:
    """A difference as plain data; `corrected` is the same difference with Holm's interval."""
    return {
        "differences": list(difference.differences),
        "mean": difference.mean,
        "interval": list(difference.interval) if difference.interval else None,
        "confidence": difference.confidence,
        "verdict": difference.verdict if corrected is None else corrected.verdict,
        "corrected_interval": list(corrected.interval) if corrected and corrected.interval else None,
        "seeds_to_halve": difference.seeds_to_halve,
    }
