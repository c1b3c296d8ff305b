"""A report's figures: each an SVG, with its data as CSV."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bam.reports import plots
from bam.reports.svg import standalone
from bam.reports.wording import capitalized

FOLDER = "figures"
CHANNELS = "channels"  #: prefix of the names of figures about channels
_LATE = "second half of the epochs"
_MIN_LATE = 5  #: evaluated epochs in the second half of a run for a figure of their own


@dataclass(frozen=True)
class Figure:
    """A figure and the numbers it shows."""

    name: str  #: stem of its files
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


#: All possible figure names: a new report deletes older files with these names that it does not write.
NAMES = (
    "differences",
    *("curves", "curves-late", "loss"),
    *("cost-parameters", "cost-macs", "cost-latency", "cost-time"),
    *("equal-time", "curves-by-time"),
    "classes",
)


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
    label = summary["measures"][0]["label"]
    all_epochs = summary["variants"]
    late = _second_half(all_epochs)
    kinds = [("curves", 1, f"{label}, %", all_epochs, "by epoch")]
    kinds += [("curves-late", 1, f"{label}, %", late, _LATE)] if late else []
    kinds += [("loss", 2, "training loss", all_epochs, "by epoch")]
    figures = []
    for name, column, text, variants, title in kinds:
        rows = [[*row[:3], row[2 + column]] for row in _points(variants)]
        if any(row[-1] is not None for row in rows):
            csv_text = _csv(["variant", "seed", "epoch", "percent" if column == 1 else "loss"], rows)
            figures.append(
                Figure(name, f"{capitalized(text)}, {title}", plots.curves(variants, column, text), csv_text)
            )
    return figures


def _second_half(variants: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The variants with only the second half of their curves, where differences show; empty for short runs."""
    last = max((row[2] for row in _points(variants)), default=0)
    late = [
        v | {"curves": [[point for point in curve if 2 * point[0] >= last] for curve in v["curves"]]} for v in variants
    ]
    long = all(len(curve) >= _MIN_LATE for variant in late for curve in variant["curves"])
    return late if long else []


def _cost(summary: dict[str, Any]) -> list[Figure]:
    measure, figures = summary["measures"][0], []
    kinds = {
        "parameters": ("params", "parameters"),
        "macs": ("macs", "multiply-adds per image"),
        "latency": ("latency_ms", "latency of one image, ms"),
        "time": ("train_seconds", "training time per run"),
    }
    for name, (key, label) in kinds.items():
        variants = summary["variants"]
        if any(variant[key] is None for variant in variants):
            continue
        rows = [[v["name"], v[key], v["mean"], v["std"]] for v in variants]
        title = f"{capitalized(measure['label'])} against {label.split(',')[0]}"
        svg = plots.cost(variants, key, label, measure)
        figures.append(Figure(f"cost-{name}", title, svg, _csv(["variant", key, "mean_percent", "std"], rows)))
    return figures


def _time(summary: dict[str, Any]) -> list[Figure]:
    equal, measure = summary["equal_time"], summary["measures"][0]
    if equal is None:
        return []
    final = {v["name"]: dict(zip(v["seeds"], v["results"], strict=True)) for v in summary["variants"]}
    rows = [
        [v["name"], seed, v["seconds"], epoch, result, final[v["name"]][seed]]
        for v in equal["variants"]
        for seed, epoch, result in zip(equal["seeds"], v["epochs"], v["results"], strict=True)
    ]
    header = ["variant", "seed", "mean_seconds", "epoch_at_equal_time"]
    header += ["percent_at_equal_time", "percent_at_equal_epochs"]
    label = capitalized(measure["label"])
    late = _second_half(summary["variants"])
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
            f"{label}, %, by training time{f', {_LATE}' if late else ''}",
            plots.curves_by_time(late or summary["variants"], equal, f"{measure['label']}, %"),
            _csv(["variant", "seed", "epoch", "seconds", "percent"], points),
        ),
    ]


def _classes(summary: dict[str, Any]) -> Figure:
    rows = [
        [
            row["name"],
            row["images"],
            row["baseline_error"],
            v["name"],
            v["error"],
            v["difference"],
            *_ends(v["interval"]),
        ]
        for row in summary["classes"]
        for v in row["variants"]
    ]
    header = ["class", "images", "baseline_error", "variant", "error", "difference", "low", "high"]
    names = [variant["name"] for variant in summary["variants"]]
    return Figure(
        "classes",
        f"Error per class, difference from {summary['baseline']}",
        plots.classes(plots.most_different(summary["classes"]), names),
        _csv(header, rows),
    )


def channel_figures(statistics: dict[str, Any], prefix: str = CHANNELS) -> list[Figure]:
    """For each site with channel attention, its most selective channels and their mean attention per class.

    `statistics` maps each site to {"classes": the result of `bam.explanation.statistics.most_selective`}.
    """
    figures = []
    for site, values in statistics.items():
        if not (selective := values.get("classes")) or not selective["channels"]:
            continue
        columns = zip(selective["channels"], selective["selectivity"], *selective["means"].values(), strict=True)
        text = _csv(["channel", "selectivity", *selective["means"]], columns)
        name, title = re.sub(r"[^\w.-]", "-", f"{prefix}-{site}"), f"Channels at {site} that tell classes apart"
        figures.append(Figure(name, title, plots.channels(selective, site), text))
    return figures


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
