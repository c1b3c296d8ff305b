"""What the records of a comparison say, as plain data: errors in percent, differences in percentage points."""

from collections.abc import Mapping
from statistics import fmean, median
from typing import Any

from bam.records import Record
from bam.reports.statistics import paired_difference, standard_deviation


def summarize(records: Mapping[str, list[Record]], latency_ms: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Summarise the complete records of each variant; the first variant is the baseline.

    Raises:
        ValueError: if a variant has no complete record, or none of a seed that the baseline has.
    """
    done = {name: {r.recipe["seed"]: r for r in runs if r.complete} for name, runs in records.items()}
    for name, runs in done.items():
        if not runs:
            raise ValueError(f"no run of {name!r} is complete yet: nothing to report")
    baseline = next(iter(done))
    variants = [_variant(name, runs, (latency_ms or {}).get(name)) for name, runs in done.items()]
    comparisons = [_comparison(baseline, name, done) for name in done if name != baseline]
    first = next(iter(done[baseline].values()))
    return {
        "baseline": baseline,
        "recipe": first.recipe,
        "environment": first.environment,
        "variants": variants,
        "comparisons": comparisons,
    }


def _variant(name: str, runs: dict[int, Record], latency: float | None) -> dict[str, Any]:
    errors = [100 * run.final["test_error"] for run in runs.values()]
    top5 = [100 * run.final["test_error_top5"] for run in runs.values() if "test_error_top5" in run.final]
    some = next(iter(runs.values()))
    return {
        "name": name,
        "params": some.cost["params"],
        "macs": some.cost["macs"],
        "sites": some.sites,
        "seeds": list(runs),
        "errors": errors,
        "error_mean": fmean(errors),
        "error_std": standard_deviation(errors),
        "error_top5_mean": fmean(top5) if len(top5) == len(runs) else None,
        "images_per_second": median(run.final["images_per_second"] for run in runs.values()),
        "latency_ms": latency,
        "curves": [
            [[row["epoch"], 100 * row["test_error"], row["train_loss"]] for row in run.history] for run in runs.values()
        ],
    }


def _comparison(baseline: str, name: str, done: dict[str, dict[int, Record]]) -> dict[str, Any]:
    seeds = [seed for seed in done[baseline] if seed in done[name]]
    if not seeds:
        raise ValueError(f"{name!r} and the baseline {baseline!r} have no seed in common: nothing to compare")
    mine, theirs = ([100 * done[v][seed].final["test_error"] for seed in seeds] for v in (name, baseline))
    difference = paired_difference(theirs, mine)
    return {
        "name": name,
        "baseline": baseline,
        "seeds": seeds,
        "differences": list(difference.differences),
        "mean": difference.mean,
        "interval": list(difference.interval) if difference.interval else None,
        "confidence": difference.confidence,
        "verdict": difference.verdict,
    }
