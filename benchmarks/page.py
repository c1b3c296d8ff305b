"""Write docs/performance.md and its plot from results.csv: tables, and targets beside measurements.

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

Written by `python benchmarks/page.py` from `benchmarks/results.csv`, to which every benchmark appends its results.
`make bench` measures on the CPU of an otherwise idle machine, `benchmarks/gpu.sh` on a GPU; on the AMD EPYC with AVX2
alone, which has no fast bf16, its commands were given with `--dtype fp32`. Paths take turns in one process. A ratio is
the median over rounds of one time divided by another. Compare only ratios: absolute times on a shared machine vary by
half within minutes, and differences below 10 % are noise there.

- *released*: the structure of the authors' code, restated: average pooling, both maps expanded to the size of F,
  multiplied, gated. *plain*: the paper's equations, each as a PyTorch operation. *bam*: `bam.BAM`.
  `benchmarks/structures.py` has the first two.
- *floors*: time divided by the time it takes just to move the necessary bytes. A forward pass reads F twice and writes
  F' (1.5 copies of F); with the backward pass it is 4 copies. The copies are timed in turn with the other paths.
- *saved*: memory kept for the backward pass besides F, in units of F.
"""

WHY = """## What makes it fast, and what limits it

- Both branches and the gate read F. `kernels/reduce.py` passes F through, so that in the backward pass one batched
  matrix product adds both branches' gradients to the gate's gradient. Autograd would write three tensors of the size
  of F and sum them.
- `kernels/formula.py` works in the memory layout of F. (N, C, 1, 1) + (N, 1, H, W) has no layout of its own, so the
  released structure turns a channels_last F into NCHW, for itself and for all later layers.
- On a CPU, the average pooling and the sums of the backward pass are matrix products with ones: for bfloat16 these are
  two to six times faster than sums and means.
- The gate: sigmoid(mc + ms) = 1 / (1 + exp(-mc) exp(-ms)), which takes N (C + H W) exponentials instead of N C H W. In
  bfloat16 on a CPU, `kernel="torch"` computes the denominators as one matrix product: *gate alone*, forward, fell from
  0.28 to 0.14 of *released*'s time (`benchmarks/module.py`, AMD EPYC with AVX-512, 2 threads). `kernel="inductor"`
  compiles the rest into one pass over F, 0.08 of it, and keeps no map for the backward pass. With it, the module
  reaches its forward goal in fp32 (`--dtype fp32`: 3.9 and 4.0 floors on two days), and comes nearer in bf16. In
  training, the same 110 and 106 ms were 4.8 and 6.0 floors: the copy is what varied. Long runs of `bam train` and
  `bam compare` time BAM's modules with both and take the faster one. For ResNet-20 in fp32, that is inductor: 21.0
  instead of 24.2 ms (2 threads, `kernel_ms` in the record.json of `bam train --recipe cifar100/resnet20 --attention bam
  --epochs 100 --precision fp32`).
- Fewer than 8 channels in the spatial branch, so C < 128 (`kernels/convolution.py`): on a CPU its maps are stored as
  NCHW, its 1x1 convolution is a matrix product, and its 3x3 convolutions have a backward pass of their own. With the
  faster gate, BAM's share of ResNet-20's training step fell from 16 to 10 % on one thread, and from 23 to 14 % on two
  (`benchmarks/network.py --model cifar/resnet20 --image 32 --batch 128`).
- Smaller maps: a module starts some 95 kernels in a training step, which take 3 to 4 ms on one thread for 32 images of
  16 x 24 x 24 or 32 x 12 x 12, whatever they compute: in ResNet-8, *bam* costs as much as *plain*
  (`benchmarks/network.py --model cifar/resnet8 --image 24 --batch 32 --dtype fp32 --threads 1`).
- What is left: with `kernel="inductor"`, the module's forward pass takes 5.7 floors on two threads in bf16. The 1x1
  reductions take 1.3 of them, the gate 1.2, the dilated convolutions 1.1, batch normalisation 0.55 and pooling 0.35
  (torch.profiler, and each alone): 4.5, more than the goal. The reductions are bound by oneDNN's arithmetic, not by
  memory: at 256 x 56 x 56, reading F takes 1.0 ms on one thread, and the product with 16 outputs 4.6 to 5.0 ms as a
  convolution, a linear layer, or a plain, batched or transposed product. In training (59 ms, 5.8 floors), the
  convolutions and their gradients take 19 ms, the gradients of F and of the reductions' weights 15, the gate 12 and
  batch normalisation 5: together the goal of 5 floors, before pooling, ReLUs and copies.
- Processing image by image, so that the map stays in cache, gained 5 % on one thread and lost 15 % on two.
- Folders of JPEGs on a CPU: a decoding process competes with the network for its cores, and the network's threads then
  wait for each other. Two steps took 13.5 s with one worker and 4.5 s without (`benchmarks/loop.py --workers 1`). The
  default on a CPU is no workers; on a GPU it is one worker per free core.
- Large JPEGs are decoded at a half, a quarter or an eighth of their size if the training crop keeps enough pixels.
  Crops of 500 x 375 to 224 x 224 need all of them: decoding alone takes a third of ImageFolder's time. torch
  resizes uint8 pixels three times as fast as Pillow, and normalising is fast if mean and deviation are repeated over a
  row, since CPUs are slow at broadcasting three numbers (`benchmarks/decoding.py`).
- By default, tensors of the size of F come in fresh pages, and each costs a page fault: on the virtual machine measured
  here, up to a third of the module's own time. `bam train`, `bam compare` and these benchmarks therefore keep freed
  memory (`training/memory.py`). This saves 4 to 6 % of a whole training step of ResNet-50 and ResNet-20, measured in
  three pairs of processes that took turns, with one thread each.
"""


LATENCY = """Networks as people ship them, in fp32 unless int8, without and with BAM (`benchmarks/inference.py`).
*fused* is `bam.fuse`; the ways after it run the fused network; int8 is what `bam export --precision int8` writes. Each
way is measured while no other one runs: the threads of ONNX Runtime go on spinning after a run, and with two threads
they doubled the times of what ran next."""


class Target(NamedTuple):
    """A target: `convert` applied to `column` of the rows that match `row`, compared with `goal` by `reached`."""

    text: str
    row: Row
    column: str
    reached: Callable[[float, float], bool]
    goal: float
    convert: Callable[[float], float] = float


def _row(benchmark: str, subject: str, phase: str, path: str) -> Row:
    return {"benchmark": benchmark, "subject": subject, "phase": phase, "path": path, "layout": "channels_last"}


def _targets() -> list[Target]:
    def module(phase: str, path: str) -> Row:
        return _row("module", "BAM at ResNet-50's sites", phase, path)

    def step(model: str, phase: str, kernel: str = "") -> Row:
        return _row("network", model, phase, f"bam{kernel}")

    def times(ratio: float) -> float:
        return 1 / ratio

    def percent(ratio: float) -> float:
        return 100 * (ratio - 1)

    cheaper, least, most = "module, training: times cheaper than released", operator.ge, operator.le
    loop = _row("loop", "", "training", "loop")
    del loop["subject"]
    demo = step("cifar/resnet8", "training") | {"dtype": "fp32"}
    photographs = {"benchmark": "decoding", "path": "bam", "shape": "32 JPEGs of 500 x 375 to 224"}
    large = photographs | {"shape": "32 JPEGs of 1600 x 1200 to 224"}
    faster = "times faster than torchvision's ImageFolder"
    return [
        Target(cheaper, module("training", "bam"), "ratio", least, 2, times),
        Target(f"{cheaper}, compiled", module("training", "bam, compiled"), "ratio", least, 3, times),
        Target("module, forward: floors", module("forward", "bam"), "floors", most, 4),
        Target("the same with kernel=inductor", module("forward", "bam inductor"), "floors", most, 4),
        Target("module, training: floors", module("training", "bam"), "floors", most, 5),
        Target("the same with kernel=inductor", module("training", "bam inductor"), "floors", most, 5),
        Target("module: saved for backward, F", module("training", "bam"), "saved", most, 1.4),
        Target("the same with recompute", module("training", "bam recompute"), "saved", most, 0.4),
        Target("the same with kernel=inductor", module("training", "bam inductor"), "saved", most, 0.4),
        Target("ResNet-50, training step: BAM adds, %", step("resnet50", "training"), "ratio", most, 4, percent),
        Target("the same with kernel=inductor", step("resnet50", "training", " inductor"), "ratio", most, 4, percent),
        Target("ResNet-50, forward: BAM adds, %", step("resnet50", "forward"), "ratio", most, 4, percent),
        Target("ResNet-20, training step: BAM adds, %", step("cifar/resnet20", "training"), "ratio", most, 10, percent),
        Target("ResNet-8, demo's training step (fp32): BAM adds, %", demo, "ratio", most, 25, percent),
        Target("data in memory and bookkeeping add to a step, %", loop, "ratio", most, 3, percent),
        Target(f"JPEGs of 500 x 375: {faster}", photographs, "ratio", least, 1.5, times),
        Target(f"JPEGs of 1600 x 1200: {faster}", large, "ratio", least, 1.5, times),
    ]


def latest(path: Path) -> list[Row]:
    """The rows of the CSV file; if something was measured twice, only the last row."""
    figures = ("date", "versions", "p20_ms", "p50_ms", "p80_ms", "ratio", "over", "saved", "floors")
    rows: dict[tuple[str, ...], Row] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            key = tuple(value for name, value in row.items() if name not in figures)
            rows.pop(key, None)
            rows[key] = row
    return list(rows.values())


def conditions(rows: list[Row]) -> str:
    """A sentence with the versions and dates of the measurements."""
    versions, dates = (sorted({row[name] for row in rows}) for name in ("versions", "date"))
    return f"Measured with {'; '.join(versions)} on {', '.join(dates)}."


def targets(rows: list[Row]) -> Iterable[str]:
    """A table of the targets with the measurements on each machine, in bf16 if networks were measured in it there."""
    rows = [row for row in rows if row["benchmark"] != "inference"]  # they have a table of their own
    machines = list(dict.fromkeys(_machine(row) for row in rows))
    in_bf16 = {_machine(row) for row in rows if row["dtype"] == "bf16" and row["benchmark"] != "decoding"}
    dtypes = {machine: "bf16" if machine in in_bf16 else "fp32" for machine in machines}
    yield "| target | goal | " + " | ".join(f"{machine}, {dtypes[machine]}" for machine in machines) + " |"
    yield "|---|---:|" + "---:|" * len(machines)
    for target in _targets():
        cells = []
        for machine in machines:
            dtype = target.row.get("dtype", dtypes[machine])
            own = [row for row in rows if _machine(row) == machine and "compiled" not in row["shape"]]
            own = [row for row in own if row["benchmark"] == "decoding" or row["dtype"] == dtype]
            matches = [row for row in own if target.row.items() <= row.items()]
            values = [round(target.convert(float(row[target.column])), 2) for row in matches]
            cells.append(", ".join(f"{v:g}{'' if target.reached(v, target.goal) else ' (missed)'}" for v in values))
        sign = "at least" if target.reached is operator.ge else "at most"
        yield f"| {target.text} | {sign} {target.goal:g} | " + " | ".join(cells) + " |"


def latencies(rows: list[Row]) -> Iterable[str]:
    """A table for each machine: the latency of each network in each way of running it, without and with BAM."""
    by_place: dict[tuple[str, str, str, str], Row] = {}
    for row in rows:
        if row["benchmark"] == "inference":
            _, size, way = row["shape"].split(", ")
            by_place[_machine(row), f"{row['subject']}, {size}", way, row["path"]] = row
    ways = list(dict.fromkeys(way for _, _, way, _ in by_place))
    for machine in dict.fromkeys(machine for machine, *_ in by_place):
        yield f"\n{machine}:\n"
        yield "| network | " + " | ".join(ways) + " |"
        yield "|---|" + "---:|" * len(ways)
        for network in dict.fromkeys(network for owner, network, *_ in by_place if owner == machine):
            cells = []
            for way in ways:
                none, bam = (by_place[machine, network, way, path] for path in ("none", "bam"))
                times = " -> ".join(f"{float(row['p50_ms']):.3g}" for row in (none, bam))
                cells.append(f"{times} ms (x{float(bam['ratio']):.2f})")
            yield f"| {network} | " + " | ".join(cells) + " |"


def tables(rows: list[Row]) -> Iterable[str]:
    """The rows of each benchmark, one table per subject, setting and machine."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["benchmark"] == "inference":
            continue
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
    """Plot time, in copies of F, against batch, side and channels."""
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
        "" if gpu else "No GPU measurements yet: none was available. `benchmarks/gpu.sh` runs them all.",
        f"\n{WHY}",
        "## Latency of one image\n",
        LATENCY,
        *latencies(rows),
        "\n## How the cost grows\n",
        "One module, forward and backward, with 16 images, 28 x 28 and 256 channels; one of the three varies.\n",
        "![Time in floors against batch, side and channels](performance.svg)\n",
        "## All figures\n",
        '<details markdown="1"><summary>Tables of all measurements</summary>',
        *tables(rows),
        "\n</details>",
    ]
    (DOCS / "performance.md").write_text("\n".join(parts) + "\n")
    print(f"{DOCS / 'performance.md'}: {len(rows)} rows")


if __name__ == "__main__":
    main()
