"""Per-class errors over all runs of a comparison."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bam.records import ClassResult
from bam.reports.statistics import paired_difference


def summarize_classes(results: Mapping[str, Mapping[int, Sequence[ClassResult]]]) -> list[dict[str, Any]]:
    """Each class's error in percent for every variant, and its paired difference from the first variant.

    Args:
        results: variant -> seed -> one result per class; the first variant is the baseline.

    Returns:
        One entry per class with test images, in class order; empty if runs lack per-class results, the variants share
        no seed, or the runs have different classes.
    """
    if not results:
        return []
    seeds = sorted(set.intersection(*({seed for seed, rows in runs.items() if rows} for runs in results.values())))
    class_lists = {tuple(result.name for result in runs[seed]) for runs in results.values() for seed in seeds}
    if not seeds or len(class_lists) != 1:
        return []
    baseline = next(iter(results))
    classes = []
    for number, name in enumerate(class_lists.pop()):
        rows = {variant: [runs[seed][number] for seed in seeds] for variant, runs in results.items()}
        if not all(result.count for row in rows.values() for result in row):
            continue
        errors = {variant: [100 * (r.errors or 0) / r.count for r in row] for variant, row in rows.items()}
        compared = [_compared(variant, errors[baseline], errors[variant]) for variant in results if variant != baseline]
        images, mean = rows[baseline][0].count, fmean(errors[baseline])
        classes.append({"name": name, "images": images, "baseline_error": mean, "variants": compared})
    return classes


def _compared(name: str, before: list[float], after: list[float]) -> dict[str, Any]:
    difference = paired_difference(before, after)
    interval = list(difference.interval) if difference.interval else None
    return {"name": name, "error": fmean(after), "difference": difference.mean, "interval": interval}
