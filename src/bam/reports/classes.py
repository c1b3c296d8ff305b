"""Errors of single classes, of all runs of a comparison."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bam.records import ClassResult
from bam.reports.statistics import paired_difference


def summarize_classes(results: Mapping[str, Mapping[int, Sequence[ClassResult]]]) -> list[dict[str, Any]]:
    """For each class its error in percent by variant, and the paired difference from the first variant.

    Args:
        results: variant -> seed -> the results of each class; the first variant is the baseline.

    Returns:
        One entry per class that has test images, in the order of the classes; empty if runs lack such results, no seed
        is common to all, or the classes are not the same everywhere.
    """
    if not results:
        return []
    seeds = sorted(set.intersection(*({seed for seed, found in runs.items() if found} for runs in results.values())))
    kinds = {tuple(one.name for one in runs[seed]) for runs in results.values() for seed in seeds}
    if not seeds or len(kinds) != 1:
        return []
    baseline = next(iter(results))
    classes = []
    for number, name in enumerate(kinds.pop()):
        rows = {variant: [runs[seed][number] for seed in seeds] for variant, runs in results.items()}
        if not all(one.count for row in rows.values() for one in row):
            continue
        errors = {variant: [100 * (one.errors or 0) / one.count for one in row] for variant, row in rows.items()}
        compared = [_compared(variant, errors[baseline], errors[variant]) for variant in results if variant != baseline]
        images, mean = rows[baseline][0].count, fmean(errors[baseline])
        classes.append({"name": name, "images": images, "baseline_error": mean, "variants": compared})
    return classes


def _compared(name: str, before: list[float], after: list[float]) -> dict[str, Any]:
    difference = paired_difference(before, after)
    interval = list(difference.interval) if difference.interval else None
    return {"name": name, "error": fmean(after), "difference": difference.mean, "interval": interval}
