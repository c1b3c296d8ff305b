"""Write an evaluation: evaluation.json, evaluation.csv (per class) and confusion.csv."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bam.files import strict_json, write_atomically
from bam.records import Breakdown, ClassResult, Measure
from bam.reports.statistics import wilson_interval

_SHOWN = 5  #: classes in the printed summary


def write_evaluation(out: Path, breakdown: Breakdown, about: dict[str, Any]) -> list[str]:
    """Write the files into `out`; return their names.

    evaluation.json holds `about`, the measures and the classes, as shares from 0 to 1; the CSV files hold percentages
    and numbers of images. Shares of the images have Wilson 95 % intervals.
    """
    content = about | {
        "num_images": breakdown.num_images,
        "measures": [_measured(breakdown, measure) for measure in breakdown.measures],
        "classes": [_class_entry(result, breakdown.unit) for result in breakdown.classes],
    }
    files = {"evaluation.json": "", "evaluation.csv": _csv(_class_rows(breakdown))}
    if breakdown.confusion:
        content["confusion"] = {"predicted": breakdown.predicted, "rows": breakdown.confusion}
        rows = zip(breakdown.classes, breakdown.confusion, strict=True)
        files["confusion.csv"] = _csv([["class", *breakdown.predicted], *([label.name, *row] for label, row in rows)])
    files["evaluation.json"] = strict_json(content)
    for name, text in files.items():
        write_atomically(out / name, text)
    return list(files)


def evaluation_lines(breakdown: Breakdown) -> list[str]:
    """The measures and the worst classes, as lines for a terminal."""
    lines = []
    for measure in breakdown.measures:
        line = f"{measure.label} {100 * breakdown.figures[measure.key]:.2f} %"
        if measure.key in breakdown.errors:
            errors = breakdown.errors[measure.key]
            line += f" {_percents(wilson_interval(errors, breakdown.num_images))}, {errors} of {breakdown.num_images}"
        lines.append(line)
    worst = sorted(breakdown.classes, key=_badness, reverse=True)[:_SHOWN]
    rows = [[result.name, *_cells(result, breakdown.unit)] for result in worst]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if len(breakdown.classes) > _SHOWN:
        lines.append(f"the {_SHOWN} worst of {len(breakdown.classes)} classes:")
    for row in rows:
        lines.append("  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return [*lines, *(["in brackets: Wilson 95 % intervals"] if breakdown.errors else [])]


def _badness(result: ClassResult) -> float:
    if result.errors is not None:
        return result.errors / result.count
    return -sum(result.figures.values())


def _cells(result: ClassResult, unit: str) -> list[str]:
    if result.errors is None:
        figures = [f"{name} {100 * value:.2f} %" for name, value in result.figures.items()]
        return [*figures, f"{result.count} {unit}"]
    interval = _percents(wilson_interval(result.errors, result.count))
    return [f"{100 * result.errors / result.count:.2f} %", interval, f"{result.errors} of {result.count}"]


def _percents(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"


def _measured(breakdown: Breakdown, measure: Measure) -> dict[str, Any]:
    entry = {
        "key": measure.key,
        "label": measure.label,
        "meaning": measure.meaning,
        "higher_is_better": measure.higher_is_better,
        "value": breakdown.figures[measure.key],
    }
    if measure.key not in breakdown.errors:
        return entry
    errors = breakdown.errors[measure.key]
    return entry | {"errors": errors, "interval": wilson_interval(errors, breakdown.num_images)}


def _class_entry(result: ClassResult, unit: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"class": result.name, unit: result.count} | result.figures
    if result.errors is None:
        return entry
    interval = wilson_interval(result.errors, result.count)
    return entry | {"errors": result.errors, "error": result.errors / result.count, "interval": interval}


def _class_rows(breakdown: Breakdown) -> Iterable[Sequence[Any]]:
    figures = list(breakdown.classes[0].figures)
    counted = breakdown.classes[0].errors is not None
    percents = ["error_percent", "low_percent", "high_percent"]
    yield ["class", breakdown.unit, *(f"{name}_percent" for name in figures), *(["errors", *percents] * counted)]
    for result in breakdown.classes:
        values = [f"{100 * result.figures[name]:.4f}" for name in figures]
        if result.errors is not None:
            low, high = wilson_interval(result.errors, result.count) or (0.0, 1.0)
            shares = (result.errors / result.count, low, high)
            values += [str(result.errors), *(f"{100 * share:.4f}" for share in shares)]
        yield [result.name, result.count, *values]


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
