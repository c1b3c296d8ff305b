"""The figures of a report: each as SVG, with its data as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bam.reports import plots
from bam.reports.svg import standalone

FOLDER = "figures"


@dataclass(frozen=True)
class Figure:
    """A figure, and the numbers it shows."""

    name: str  #: of its files
    title: str
    svg: str
    csv: str

    @property
    def files(self) -> dict[str, str]:
        """Path below the report's folder -> content."""
        return {f"{FOLDER}/{self.name}.svg": standalone(self.svg), f"{FOLDER}/{self.name}.csv": self.csv}


def figures_of(summary: dict[str, Any]) -> dict[str, list[Figure]]:
    """The figures of each part of the report: "differences", "curves", "cost", "time" and "classes"."""
    return {
        "differences": [_differences(summary)] if summary["comparisons"] else [],
        "curves": _curves(summary),
        "cost": _cost(summary),
        "time": _time(summary),
        "classes": [_classes(summary)] if summary["classes"] and summary["comparisons"] else [],
    }


#: All names that a figure can have: files of earlier reports with these names go where a report lacks them.
NAMES = (
    "differences", "curves", "loss", "cost-parameters", "cost-macs", "cost-latency", "equal-time", "curves-by-time",
    "classes",
)  # fmt: skip


def _differences(summary: dict[str, Any]) -> Figure:
    rows = [
        [c["name"], c["baseline"], seed, value, c["mean"], *_ends(c["interval"]), *_ends(c["corrected_interval"])]
        for c in summary["comparisons"]
        for seed, value in zip(c["seeds"], c["differences"], strict=True)
    ]
    header = ["variant", "baseline", "seed", "difference", "mean", "low", "high", "holm_low", "holm_high"]
    return Figure(
        "differences",
        f"Differences from {summary['baseline']}, seed by seed",
        plots.differences(summary["comparisons"], summary["measures"][0]),
        _csv(header, rows),
    )


def _curves(summary: dict[str, Any]) -> list[Figure]:
    variants, label = summary["variants"], summary["measures"][0]["label"]
    rows = list(_points(variants))
    names = {"curves": (1, f"{label}, %"), "loss": (2, "training loss")}
    return [
        Figure(
            name,
            f"{text[:1].upper()}{text[1:]}, by epoch",
            plots.curves(variants, column, text),
            _csv(["variant", "seed", "epoch", name if column == 2 else "percent"], [[*r[:3], r[2 + column]] for r in rows]),
        )
        for name, (column, text) in names.items()
        if any(row[2 + column] is not None for row in rows)
    ]


def _cost(summary: dict[str, Any]) -> list[Figure]:
    measure, figures = summary["measures"][0], []
    kinds = {
        "parameters": ("params", "parameters"),
        "macs": ("macs", "multiply-adds per image"),
        "latency": ("latency_ms", "latency of one image, ms"),
    }
    for name, (key, label) in kinds.items():
        variants = summary["variants"]
        if any(variant[key] is None for variant in variants):
            continue
        rows = [[v["name"], v[key], v["mean"], v["std"]] for v in variants]
        title = f"{measure['label'][:1].upper()}{measure['label'][1:]} against {label.split(',')[0]}"
        svg = plots.cost(variants, key, label, measure)
        figures.append(Figure(f"cost-{name}", title, svg, _csv(["variant", key, "mean_percent", "std"], rows)))
    return figures


def _time(summary: dict[str, Any]) -> list[Figure]:
    equal, measure = summary["equal_time"], summary["measures"][0]
    if equal is None:
        return []
    by_name = {variant["name"]: variant for variant in summary["variants"]}
    rows = [
        [v["name"], seed, v["seconds"], epoch, result, by_name[v["name"]]["results"][by_name[v["name"]]["seeds"].index(seed)]]
        for v in equal["variants"]
        for seed, epoch, result in zip(equal["seeds"], v["epochs"], v["results"], strict=True)
    ]
    header = ["variant", "seed", "mean_seconds", "epoch_at_equal_time", "percent_at_equal_time", "percent_at_equal_epochs"]
    label = f"{measure['label'][:1].upper()}{measure['label'][1:]}"
    points = [[*row[:3], row[5], row[3]] for row in _points(summary["variants"])]
    return [
        Figure(
            "equal-time",
            f"{label} at equal epochs and at equal training time",
            plots.equal_time(summary["variants"], equal, measure),
            _csv(header, rows),
        ),
        Figure(
            "curves-by-time",
            f"{label}, %, by training time",
            plots.curves_by_time(summary["variants"], equal, f"{measure['label']}, %"),
            _csv(["variant", "seed", "epoch", "seconds", "percent"], points),
        ),
    ]


def _classes(summary: dict[str, Any]) -> Figure:
    rows = [
        [one["name"], one["images"], one["baseline_error"], v["name"], v["error"], v["difference"], *_ends(v["interval"])]
        for one in summary["classes"]
        for v in one["variants"]
    ]
    header = ["class", "images", "baseline_error", "variant", "error", "difference", "low", "high"]
    names = [variant["name"] for variant in summary["variants"]]
    return Figure(
        "classes",
        f"Error of single classes, minus that of {summary['baseline']}",
        plots.classes(plots.most_different(summary["classes"]), names),
        _csv(header, rows),
    )


def _points(variants: Sequence[dict[str, Any]]) -> Iterable[list[Any]]:
    """Variant, seed, epoch, measure, training loss, seconds."""
    for variant in variants:
        for seed, curve in zip(variant["seeds"], variant["curves"], strict=True):
            for point in curve:
                yield [variant["name"], seed, *point]


def _ends(interval: list[float] | None) -> list[float | None]:
    return [None, None] if interval is None else list(interval)


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
