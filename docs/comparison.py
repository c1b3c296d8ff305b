"""Write comparisons into docs/comparison.md: `python docs/comparison.py FOLDER...`, folders of `bam compare`.

Each recipe has a section, which a new comparison replaces; the other sections stay as they are.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from bam.cli.training import compare_commands
from bam.costs import format_count
from bam.reports.wording import interval_text, percent, verdict_kind

PAGE = Path(__file__).with_suffix(".md")
OPENING = """# Attention modules compared

Published systems, each where its own paper puts it, on the same network, images and seeds. The first variant has no
attention. Differences from it are paired by seed, in percentage points, with 95 % intervals: alone, and corrected for
the number of variants (Holm), on which the verdicts rest. These are small networks and short schedules: they say what a
module does here, not what it does on ImageNet. Runs trained side by side on a machine with other work, so that training
rates are rough. Some trained later, with more or less beside them, and neither their rates nor their results "when the
fastest had ended" compare with the others: `deformable` and `spatial_transformer` on the small digits, `se` and `cbam`
on CIFAR-100. Latencies of one image were measured in turns, when all runs had ended.

`python docs/comparison.py FOLDER...` adds or replaces the sections of comparisons.
"""


def verdicts(summary: dict[str, Any]) -> str:
    """A sentence: which variants are better than the baseline, which worse, and for which no difference is shown."""
    kinds = {"better": [], "worse": [], "no difference shown": [], "no verdict": []}
    for comparison in summary["comparisons"]:
        kinds[verdict_kind(comparison["verdict"])].append(f"`{comparison['name']}`")
    return "; ".join(f"**{kind}:** {', '.join(names) or 'none of them'}" for kind, names in kinds.items()) + "."


def signed(difference: float | None, interval: list[float] | None) -> str:
    """A difference with its interval."""
    return "" if difference is None else f"{difference:+.2f} {interval_text(interval)}"


def rows(summary: dict[str, Any]) -> list[str]:
    """The table: one row per variant."""
    label, base = summary["measures"][0]["label"], summary["variants"][0]
    compared = {comparison["name"]: comparison for comparison in summary["comparisons"]}
    timed = {variant["name"]: variant for variant in (summary["equal_time"] or {"variants": []})["variants"]}
    if not any(time.get("difference") for time in timed.values()):  # nothing was reached by then
        timed = {}
    head = ["variant", "parameters", "MACs", "training rate", "latency", label, "difference", "Holm"]
    head += ["when the fastest had ended"] if timed else []
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for variant in summary["variants"]:
        difference, time = compared.get(variant["name"], {}), timed.get(variant["name"], {})
        cells = [
            f"`{variant['name']}`",
            f"{variant['params']:,}",
            format_count(variant["macs"]),
            f"x {variant['images_per_second'] / base['images_per_second']:.2f}",
            f"x {variant['latency_ms'] / base['latency_ms']:.2f}" if variant["latency_ms"] else "",
            percent(variant["mean"], variant["std"]),
            signed(difference.get("mean"), difference.get("interval")),
            interval_text(difference["corrected_interval"]) if difference.get("corrected_interval") else "",
            *([signed(time.get("difference"), time.get("interval"))] if timed else []),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def section(folder: Path) -> list[str]:
    """What one comparison showed; copies its figure into docs/."""
    summary = json.loads((folder / "summary.json").read_text())
    recipe, environment = summary["recipe"], summary["environment"]
    picture = PAGE.parent / f"comparison-{re.sub('[^a-z0-9]+', '-', recipe['name'])}.svg"
    shutil.copyfile(folder / "figures" / "cost-latency.svg", picture)
    counts = f"{recipe['epochs']} epochs, {len(summary['variants'][0]['seeds'])} seeds"
    machine = f"{environment.get('processor')}, {environment['precision']}, {environment.get('threads')} thread(s)"
    return [
        f"## {recipe['name']}\n",
        f"{recipe['model']} on {recipe['data']}, {counts}; {machine}, torch {environment['versions']['torch']}.\n",
        f"{verdicts(summary)}\n",
        *rows(summary),
        f"\n![{summary['measures'][0]['label']} against latency]({picture.name})\n",
        f"```sh\n{compare_commands(folder, summary)}\n```\n",
    ]


def main(folders: list[str]) -> None:
    """Write the page: its sections, with those of `folders` added or replaced."""
    page = PAGE.read_text() if PAGE.is_file() else ""
    sections = {text.split("\n")[0]: text for text in re.split("^## ", page, flags=re.MULTILINE)[1:]}
    for folder in folders:
        text = "\n".join(section(Path(folder))).removeprefix("## ")
        sections[text.split("\n")[0]] = text
    PAGE.write_text("\n## ".join([OPENING, *(text.rstrip() + "\n" for text in sections.values())]))


if __name__ == "__main__":
    main(sys.argv[1:])
