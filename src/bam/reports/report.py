"""Write a comparison's report: report.md, report.html, summary.json and summary.csv."""

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

from bam.costs import format_count
from bam.files import write_atomically
from bam.reports.templates import environment

try:
    from bam.reports.plots import differences, learning_curves
except ImportError as error:
    raise ImportError(f"reports need {error.name}: pip install 'bottleneck-attention[report]'") from None


def write_report(out: Path, summary: dict[str, Any], command: str) -> None:
    """Write the four files into `out`; `command` is the command that repeats the comparison."""
    templates = environment()
    templates.filters |= {"count": format_count, "percent": _percent, "interval": _interval, "signed": "{:+.2f}".format}
    templates.filters |= {"rate": _rate, "capitalized": lambda text: text[:1].upper() + text[1:]}
    measure = summary["measures"][0]
    page = {
        "s": summary,
        "label": measure["label"],
        "command": command,
        "probe_notes": probe_notes(summary),
        "recipe_yaml": _yaml(summary["recipe"]),
        "curves": learning_curves(summary["variants"], measure["label"]),
        "differences": differences(summary["comparisons"], measure) if summary["comparisons"] else "",
        "pictures": [picture | {"png": _base64(out / picture["file"])} for picture in summary["pictures"]],
    }
    write_atomically(out / "report.html", templates.get_template("report.html.jinja").render(page))
    templates.autoescape = False
    write_atomically(out / "report.md", templates.get_template("report.md.jinja").render(page))
    write_atomically(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_atomically(out / "summary.csv", _csv(summary))


def table(summary: dict[str, Any]) -> list[str]:
    """The results as lines for a terminal."""
    label = summary["measures"][0]["label"]
    lines = [
        f"{v['name']}: {_percent(v['mean'], v['std'])} {label}, {v['params']:,} parameters, "
        f"{format_count(v['macs'])} MACs, {_rate(v['images_per_second'])} images/s in training"
        for v in summary["variants"]
    ]
    for c in summary["comparisons"]:
        difference = f"{c['mean']:+.2f} points {_interval(c['interval'])}"
        together = f", with all variants {_interval(c['corrected_interval'])}" if c["corrected_interval"] else ""
        more = f"; {c['seeds_to_halve']} seeds would halve the interval" if c["seeds_to_halve"] else ""
        lines.append(f"{c['name']} - {c['baseline']}: {difference}{together}: {c['verdict']}{more}")
    return [*lines, *probe_notes(summary)]


def probe_notes(summary: dict[str, Any]) -> list[str]:
    """What a linear probe of the pretrained features reaches, and whether the baseline does worse."""
    measure = summary["measures"][0]
    if not summary["probe"] or measure["key"] not in summary["probe"]:
        return []
    reached, baseline = 100 * summary["probe"][measure["key"]], summary["variants"][0]
    note = f"linear probe of the frozen features: {reached:.2f} % {measure['label']}"
    if baseline["mean"] <= reached:
        return [note]
    return [
        f"{note}. The baseline {baseline['name']} is worse ({baseline['mean']:.2f} %): training spoils the pretrained "
        "features, and says little about attention; try a lower lr, or more epochs"
    ]


def _percent(mean: float, deviation: float | None) -> str:
    return f"{mean:.2f} %" if deviation is None else f"{mean:.2f} ± {deviation:.2f} %"


def _rate(images_per_second: float) -> str:
    return f"{images_per_second:,.{0 if images_per_second >= 10 else 1}f}"


def _interval(interval: list[float] | None) -> str:
    return "(no interval)" if interval is None else f"[{interval[0]:+.2f}, {interval[1]:+.2f}]"


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
    return text.getvalue()
