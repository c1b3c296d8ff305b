"""Write a comparison's report: report.html, report.md, summary.json, summary.csv and the figures."""

import base64
import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bam.costs import format_count
from bam.files import strict_json, write_atomically
from bam.reports import wording
from bam.reports.figures import CHANNELS, FOLDER, NAMES, channel_figures, figures_of
from bam.reports.markdown import fenced, in_markdown, indented
from bam.reports.svg import STYLE
from bam.reports.templates import environment

if TYPE_CHECKING:
    from jinja2 import Environment

_CLASSES_IN_TABLE = 200


def write_report(out: Path, summary: dict[str, Any], command: str) -> None:
    """Write a comparison's report into `out`; `command` holds the commands that repeat it, one per line.

    report.html is self-contained; report.md has the same text and links to figures/*.svg. Each figure has a CSV.
    """
    figures = figures_of(summary)
    files = {name: text for part in figures.values() for figure in part for name, text in figure.files.items()}
    page = _content(summary, command) | {"figures": figures}
    pictures = [picture | {"png": _base64(out / picture["file"])} for picture in summary["pictures"]]
    looks = []
    for look in summary["attention"]:
        embedded = [picture | {"png": _base64(out / picture["file"])} for picture in look.get("pictures", [])]
        channels = channel_figures(look.get("statistics", {}), f"{CHANNELS}-{look['name']}")
        files |= {name: text for figure in channels for name, text in figure.files.items()}
        looks.append(look | {"pictures": embedded, "figures": channels})
    html, markdown = _templates(autoescape=True), _templates(autoescape=False)
    files["report.html"] = html.get_template("report.html.jinja").render(
        page, pictures=pictures, looks=looks, chart_style=STYLE
    )
    files["report.md"] = markdown.get_template("report.md.jinja").render(
        page, pictures=summary["pictures"], looks=looks
    )
    files["summary.json"] = strict_json(summary)
    files["summary.csv"] = _csv(summary)
    for name, text in files.items():
        write_atomically(out / name, text)
    earlier = [path.stem for path in out.glob(f"{FOLDER}/{CHANNELS}-*.svg")]
    for stale in (f"{FOLDER}/{name}.{kind}" for name in (*NAMES, *earlier) for kind in ("svg", "csv")):
        if stale not in files:
            (out / stale).unlink(missing_ok=True)


def _content(summary: dict[str, Any], command: str) -> dict[str, Any]:
    """The template variables for both pages."""
    measure, comparisons = summary["measures"][0], summary["comparisons"]
    return {
        "s": summary,
        "heading": wording.heading(summary),
        "label": measure["label"],
        "command": command,
        "verdicts": [
            {
                "verdict": comparison["verdict"].split()[0],
                "parts": wording.verdict_parts(comparison, measure),
                "notes": wording.verdict_notes(comparison, len(comparisons)),
            }
            for comparison in comparisons
        ],
        "warnings": wording.warnings(summary),
        "probe_notes": wording.probe_notes(summary),
        "environment": wording.environment_rows(summary),
        "recipe_yaml": _yaml(summary["recipe"]),
        "classes": _largest(summary["classes"]),
    }


def _templates(*, autoescape: bool) -> "Environment":
    templates = environment(autoescape=autoescape)
    templates.filters |= {
        "count": format_count,
        "percent": wording.percent,
        "relative": wording.relative,
        "interval": wording.interval_text,
        "signed": "{:+.2f}".format,
        "rate": wording.rate,
        "duration": wording.duration,
        "epochs": wording.epochs_text,
        "capitalized": wording.capitalized,
        "share": wording.share,
        "text": str if autoescape else in_markdown,
        "fenced": fenced,
        "indented": indented,
    }
    return templates


def _largest(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The classes for the table, in class order; beyond `_CLASSES_IN_TABLE`, only those that differ most."""
    if len(classes) <= _CLASSES_IN_TABLE:
        return classes
    order = sorted(range(len(classes)), key=lambda k: -max(abs(v["difference"]) for v in classes[k]["variants"]))
    return [classes[k] for k in sorted(order[:_CLASSES_IN_TABLE])]


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _yaml(recipe: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(recipe, sort_keys=False)


def _csv(summary: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [measure["key"] for measure in summary["measures"]]
    columns = [f"{key}_percent" for key in keys]
    writer.writerow(["variant", "seed", *columns, "params", "macs", "images_per_second", "latency_ms"])
    for variant in summary["variants"]:
        for number, seed in enumerate(variant["seeds"]):
            values = [f"{variant['all_results'][key][number]:.4f}" for key in keys]
            costs = [variant["params"], variant["macs"], f"{variant['images_per_second']:.1f}", variant["latency_ms"]]
            writer.writerow([variant["name"], seed, *values, *costs])
    for failure in summary["failures"]:
        writer.writerow([failure["name"], failure["seed"], *["failed"] * len(keys), *[""] * 4])
    return text.getvalue()
