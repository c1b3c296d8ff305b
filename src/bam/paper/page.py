"""The paper's tables beside this package's counts, as Markdown."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from bam.files import write_atomically
from bam.paper.counts import Counts, count, unmet
from bam.paper.tables import RESULTS, TABLES, Row

_BEGIN, _END = "<!-- made by: bam paper --out docs/reproducing.md -->", "<!-- end of what bam paper makes -->"
_MISSING = "its task is not available here"
_HEAD = (
    *("row", "recipe", "variant", "M params, printed", "ours", "authors' code"),
    *("GFLOPs, printed", "GMACs, 1x1 strides", "3x3 strides"),
)


def markdown(titles: Iterable[str] = tuple(TABLES)) -> str:
    """The tables with these titles. A star marks a printed count that differs from ours; a note below explains it."""
    parts = []
    for title in titles:
        rows = [(row, count(row)) for row in TABLES[title]]
        head = [*_HEAD, RESULTS.get(title, "error % (top-1, top-5), printed")]
        parts += [f"### {title}", "", _table([head, *(_cells(row, counts) for row, counts in rows)]), ""]
        reasons = [f"- {row.network}, {printed}: {why}" for row, c in rows for printed, why in unmet(row, c).items()]
        parts += [*reasons, ""] if reasons else []
    return "\n".join(parts)


def write_tables(path: Path) -> None:
    """Write all tables between the markers in the Markdown page at `path`.

    Raises:
        FileNotFoundError: if there is no such page.
        ValueError: if it has no markers.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{path} has no place for the tables: add two lines, {_BEGIN!r} and {_END!r}")
    write_atomically(path, f"{before}{_BEGIN}\n\n{markdown()}\n{_END}{after}")


def _cells(row: Row, counts: Counts | None) -> list[str]:
    if counts is None:
        return [row.network, row.recipe, row.variant, row.params, _MISSING, "", row.gflops, "", "", row.result]
    missed = unmet(row, counts)
    bam, bottleneck = row.variant.startswith("bam"), counts.modern_macs != counts.macs
    return [
        row.network,
        row.recipe,
        row.variant,
        row.params + "*" * (row.params in missed),
        f"{counts.params:,}",
        f"{counts.released_params:,}" if bam else "",
        row.gflops + "*" * (row.gflops in missed),
        f"{counts.macs / 1e9:.4f}",
        f"{counts.modern_macs / 1e9:.4f}" if bottleneck else "",
        row.result,
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The rows as a Markdown table with aligned columns: the first three to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    padded = [
        line(c.ljust(w) if k < 3 else c.rjust(w) for k, (c, w) in enumerate(zip(r, widths, strict=True))) for r in rows
    ]
    rule = line("-" * w if k < 3 else "-" * (w - 1) + ":" for k, w in enumerate(widths))
    return "\n".join([padded[0], rule, *padded[1:]])
