"""Write the survey as a Markdown page."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bam.coverage.row import CHECKS, Row
from bam.coverage.survey import read
from bam.files import write_atomically


def write_page(path: Path, survey: Path, command: str) -> None:
    """Write a Markdown page from a survey's CSV file: counts, failures with reasons, and one line per network."""
    rows = read(survey)
    versions = sorted({version for row in rows for version in row.versions.split(", ") if version})
    lines = ["# Coverage", "", f"Written by `{command}` ({', '.join(versions)}). {_ABOUT}", ""]
    lines += [f"- **{name}**: {meaning}" for name, meaning in CHECKS.items()]
    for library in dict.fromkeys(row.library for row in rows):
        library_rows = [row for row in rows if row.library == library]
        lines += ["", f"## {library}", "", *_counts(library_rows)]
        lines += _section("Failures", [row for row in library_rows if not row.refused and not row.passed], _reason)
        lines += _section(
            "Other map than in `feature_info`, same stride: the last map before the down-sampling",
            [row for row in library_rows if row.levels == "other map"],
            _sites,
        )
        with_notes = [row for row in library_rows if row.passed and row.reason]
        lines += _section("Sites that carry only part of the flow", with_notes, _reason)
        refused = [row for row in library_rows if row.refused]
        lines += _section("Refused: no feature maps, or no places of the kind that the module needs", refused, _name)
        lines += [
            "",
            "### All networks that count",
            "",
            "| family | network | attention | where | " + " | ".join(CHECKS) + " |",
            "|---" * (4 + len(CHECKS)) + "|",
        ]
        for row in library_rows:
            if not row.refused:
                cells = [row.family, row.name.removeprefix("timm/"), row.attention, row.found or row.reason]
                lines.append("| " + " | ".join([*cells, *(getattr(row, name) for name in CHECKS)]) + " |")
    write_atomically(path, "\n".join(lines) + "\n")


_ABOUT = (
    "Each network is built with random weights and gets attention where the module's paper puts it, as BAM at the "
    "bottlenecks. A network counts if it has such places; others are refused with a message."
)


def _counts(rows: Sequence[Row]) -> list[str]:
    modules = list(dict.fromkeys(row.attention for row in rows))
    if len(modules) > 1:
        lines = [f"{len({row.name for row in rows})} networks with {len(modules)} attention modules.", ""]
        lines += ["| attention | networks that count | pass every check |", "|---|---:|---:|"]
        for module in modules:
            counted = [row for row in rows if row.attention == module and not row.refused]
            lines.append(f"| {module} | {len(counted)} | {sum(row.passed for row in counted)} |")
        return lines
    counting = [row for row in rows if not row.refused]
    passed = sum(row.passed for row in counting)
    share = f" ({100 * passed / len(counting):.1f} %)" if counting else ""
    table = ["", "| " + " | ".join(CHECKS) + " |", "|---" * len(CHECKS) + "|"]
    cells = []
    for name in CHECKS:
        values = [getattr(row, name) for row in counting]
        qualified = {value: values.count(value) for value in values if value not in ("pass", "fail", "")}
        cells.append(", ".join([f"{values.count('pass')} pass", *(f"{n} {value}" for value, n in qualified.items())]))
    summary = f"{len(rows)} networks, of which {len(counting)} count; {passed} of them pass every check{share}."
    return [summary, *table, "| " + " | ".join(cells) + " |"]


def _section(title: str, rows: Sequence[Row], describe: Callable[[Row], str]) -> list[str]:
    return ["", f"### {title}", "", *(f"- {describe(row)}" for row in rows)] if rows else []


def _reason(row: Row) -> str:
    return f"{row.name}, {row.attention}: {row.reason}"


def _sites(row: Row) -> str:
    return f"{row.name}, {row.attention}: {row.found}"


def _name(row: Row) -> str:
    return f"{row.name} ({row.family}), {row.attention}"
