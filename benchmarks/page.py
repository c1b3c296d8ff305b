"""Write docs/performance.md and its plot from results.csv: tables, and the targets with what was measured for them.

python benchmarks/page.py [results.csv]
"""

import csv
import operator
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from timing import RESULTS

DOCS = Path(__file__).parents[1] / "docs"
Row = dict[str, str]

INTRODUCTION = """# Performance

Written by `python benchmarks/page.py` from `benchmarks/results.csv`, to which every benchmark appends what it prints.
`make bench` measures on the CPU, on an otherwise idle machine, and `benchmarks/gpu.sh` on a GPU. Paths take turns in
one process; a ratio is the median over the rounds of time by time, and the only thing to compare: absolute times of a
shared machine move by half between minutes. Below 10 % is noise there.

- *released*: the structure of the authors' code, restated: average pooling, both maps expanded to the size of F,
  multiplied, gated; *plain*: the paper's equations, each as PyTorch's operation for it; *bam*: `bam.BAM`.
  `benchmarks/structures.py` has the first two.
- *floors*: time over the time in which the bytes that must be moved are moved: F read twice and F' written in a forward
  pass (1.5 copies of F), with the backward pass 4 copies. Copies take their turn with the others.
- *saved*: what is kept for the backward pass besides F, in units of F.
"""

WHY = """## What makes it fast, and what limits it

- Both branches and the gate read F. `kernels/reduce.py` hands F on, so that in the backward pass one batched matrix
  product adds what flows back through both branches to the gate's gradient; autograd writes three tensors of the size
  of F there and sums them.
- `kernels/formula.py` works on the view in which F lies. (N, C, 1, 1) + (N, 1, H, W) has no layout of its own: the
  released structure turns a channels_last F into NCHW, for itself and for all that comes after it.
- The average pooling and the sums of the backward pass are matrix products with ones on a CPU, where they are two to
  six times faster than sums and means for bfloat16.
- What is left forward is the gate's arithmetic, one kernel of eager PyTorch at a time: sum, sigmoid and multiply-add,
  each over all of F (*gate alone*; the sigmoid is bound by arithmetic: it takes as long in cache), and the convolutions
  and batch statistics of the branches. A compiler makes one pass of the gate and no less of the branches; neither way
  does a forward pass get to 5 floors here.
- Processing image by image, so that the map stays in cache, gained 5 % on one thread and lost 15 % on two.
- Folders of JPEGs, on a CPU: a process that decodes beside the network takes its cores, and its threads then wait for
  each other: with one worker two steps took 13.5 s, without 4.5 s (`benchmarks/loop.py --workers 1`). The default there
  is none; on a GPU it is one for each free core.
- By default tensors of the size of F come in fresh pages, each of which costs a fault: on the virtual machine of these
  figures up to a third of the time of the module alone. `bam train` and `bam compare` therefore keep freed memory
  (`training/memory.py`), and so do these benchmarks: 4 to 6 % of a whole training step of ResNet-50 and ResNet-20, in
  three pairs of processes that took turns, one thread each.
"""


class Target(NamedTuple):
    """A figure to reach: `column` of the rows like `row`, turned by `turn`, compared with `goal` by `reached`."""

    text: str
    row: Row
    column: str
    reached: Callable[[float, float], bool]
    goal: float
    turn: Callable[[float], float] = float


def _row(benchmark: str, subject: str, phase: str, path: str) -> Row:
    of = {"benchmark": benchmark, "subject": subject, "phase": phase, "path": path}
    return of | {"dtype": "bf16", "layout": "channels_last"}


def _targets() -> list[Target]:
    def module(phase: str, path: str) -> Row:
        return _row("module", "BAM at ResNet-50's sites", phase, path)

    def times(ratio: float) -> float:
        return 1 / ratio

    def percent(ratio: float) -> float:
        return 100 * (ratio - 1)

    cheaper, least, most = "module, training: times cheaper than released", operator.ge, operator.le
    step, loop = _row("network", "resnet50", "training", "bam"), _row("loop", "", "training", "loop")
    del loop["subject"]
    return [
        Target(cheaper, module("training", "bam"), "ratio", least, 2, times),
        Target(f"{cheaper}, compiled", module("training", "bam, compiled"), "ratio", least, 3, times),
        Target("module, forward: floors", module("forward", "bam"), "floors", most, 5),
        Target("module, forward, compiled: floors", module("forward", "bam, compiled"), "floors", most, 5),
        Target("module, training: floors", module("training", "bam"), "floors", most, 8),
        Target("module: saved for backward, F", module("training", "bam"), "saved", most, 1.4),
        Target("the same with recompute", module("training", "bam recompute"), "saved", most, 0.4),
        Target("ResNet-50, training step: BAM adds, %", step, "ratio", most, 10, percent),
        Target("data in memory and bookkeeping add to a step, %", loop, "ratio", most, 3, percent),
    ]


def latest(path: Path) -> list[Row]:
    """The rows of the CSV file; of those of the same thing measured twice, the last."""
    figures = ("date", "versions", "p20_ms", "p50_ms", "p80_ms", "ratio", "over", "saved", "floors")
    rows: dict[tuple[str, ...], Row] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            key = tuple(value for name, value in row.items() if name not in figures)
            rows.pop(key, None)
            rows[key] = row
    return list(rows.values())


def conditions(rows: list[Row]) -> str:
    """With what and when the rows were measured."""
    versions, dates = (sorted({row[name] for row in rows}) for name in ("versions", "date"))
    return f"Measured with {'; '.join(versions)} on {', '.join(dates)}."


def targets(rows: list[Row]) -> Iterable[str]:
    """A table of the targets, with what was measured on each machine."""
    machines = list(dict.fromkeys(_machine(row) for row in rows))
    yield "| target | goal | " + " | ".join(machines) + " |"
    yield "|---|---:|" + "---:|" * len(machines)
    for target in _targets():
        cells = []
        for machine in machines:
            own = [row for row in rows if _machine(row) == machine and "compiled" not in row["shape"]]
            found = [row for row in own if target.row.items() <= row.items()]
            values = [round(target.turn(float(row[target.column])), 2) for row in found]
            cells.append(", ".join(f"{v:g}{'' if target.reached(v, target.goal) else ' (missed)'}" for v in values))
        sign = "at least" if target.reached is operator.ge else "at most"
        yield f"| {target.text} | {sign} {target.goal:g} | " + " | ".join(cells) + " |"


def tables(rows: list[Row]) -> Iterable[str]:
    """The rows of each benchmark, a table for each subject, setting and machine."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        title = (
            f"{row['subject']}, {row['shape']}" if row["benchmark"] != "scaling" else f"scaling with {row['subject']}"
        )
        key = (row["benchmark"], f"{title}, {row['dtype']} {row['layout']}, {row['phase']}; {_machine(row)}")
        groups.setdefault(key, []).append(row)
    for (benchmark, title), members in groups.items():
        yield f"\n### {benchmark}: {title}\n"
        yield "| | path | p20 ms | p50 ms | p80 ms | ratio | to | saved, F | floors |"
        yield "|---|---|---:|---:|---:|---:|---|---:|---:|"
        for row in members:
            size = row["shape"] if benchmark == "scaling" and row["subject"] != "sites" else ""
            columns = ("path", "p20_ms", "p50_ms", "p80_ms", "ratio", "over", "saved", "floors")
            yield f"| {size} | " + " | ".join(row[name] for name in columns) + " |"


def plot(rows: list[Row], path: Path) -> None:
    """How time grows, in copies of F."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bam"
    import matplotlib.pyplot as plt

    axes_of = ("batch", "side", "channels")
    figure, axes = plt.subplots(1, len(axes_of), figsize=(11, 3.2), sharey=True, layout="constrained")
    for subject, ax in zip(axes_of, axes, strict=True):
        chosen = [row for row in rows if row["benchmark"] == "scaling" and row["subject"] == subject]
        for name in dict.fromkeys((row["path"], _machine(row)) for row in chosen if row["path"] != "copy of F"):
            points = sorted(
                (int(row["shape"]), float(row["floors"])) for row in chosen if (row["path"], _machine(row)) == name
            )
            ax.plot(*zip(*points, strict=True), marker="o", label=f"{name[0]} ({name[1]})")
        ax.set(xscale="log", yscale="log", xlabel=subject)
        ax.set_xticks([int(row["shape"]) for row in chosen if row["path"] == "bam"])
        ax.set_yticks([5, 10, 20, 40])
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("forward and backward, in floors")
    axes[0].legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})


def _machine(row: Row) -> str:
    threads = int(row["threads"] or 0)
    return f"{row['hardware']}, {threads} thread{'s' * (threads > 1)}" if threads else row["hardware"]


def main() -> None:
    """Write the page."""
    rows = latest(Path(sys.argv[1]) if len(sys.argv) == 2 else RESULTS)
    plot(rows, DOCS / "performance.svg")
    gpu = any(not row["threads"] for row in rows)
    parts = [
        INTRODUCTION,
        "## Targets\n",
        *targets(rows),
        f"\n{conditions(rows)}",
        "" if gpu else "Nothing was measured on a GPU yet: none was to be had. `benchmarks/gpu.sh` does all of it.",
        f"\n{WHY}",
        "## How the cost grows\n",
        "One module, forward and backward: 16 images, 28 x 28 and 256 channels, of which one is varied.\n",
        "![Time in floors against batch, side and channels](performance.svg)\n",
        "## All figures",
        *tables(rows),
    ]
    (DOCS / "performance.md").write_text("\n".join(parts) + "\n")
    print(f"{DOCS / 'performance.md'}: {len(rows)} rows")


if __name__ == "__main__":
    main()
