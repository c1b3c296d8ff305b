"""steps.csv: learning rate and losses of every step of a run."""

from collections.abc import Sequence
from pathlib import Path

from bam.files import append, write_atomically

STEPS = "steps.csv"


def append_steps(out: Path, losses: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Append rows of step, learning rate and the `losses`; a new file begins with a header."""
    header = [] if (out / STEPS).exists() else [["step", "lr", *losses]]
    append(out / STEPS, "".join(",".join(row) + "\n" for row in [*header, *rows]))


def keep_steps_before(out: Path, step: int) -> None:
    """Remove the rows from `step` on, which a resumed run writes again."""
    path = out / STEPS
    if not path.exists():
        return
    header, *rows = [line.split(",") for line in path.read_text(errors="replace").splitlines()] or [[]]
    # A kill may have truncated the last row, or a power failure damaged it.
    kept = [row for row in rows if len(row) == len(header) and row[0].isdigit() and int(row[0]) < step]
    if kept:
        write_atomically(path, "".join(",".join(row) + "\n" for row in [header, *kept]))
    else:  # `append_steps` writes the header again
        path.unlink()
