"""Whether memory, open files and the cost of a step stay flat over hours of training.

    python benchmarks/soak.py --minutes 120 --csv soak.csv --runs runs/c100 \
        -- bam compare --recipe cifar100/resnet20 --epochs 12 --attention none,bam --seeds 3 --out runs/c100

The command runs as it would without this script. Once a minute a row is written: the resident memory of its processes
(MiB), their open file descriptors and threads, the CPU time they used since the row before (s), and the steps that the
runs below `--runs` took in it. CPU time per step, unlike wall time, does not depend on what else the machine does. When
`--minutes` are over, the command goes on, and the rows with it, until it ends.
"""

import argparse
import csv
import subprocess
import time
from pathlib import Path

import psutil

COLUMNS = ("minute", "memory_mib", "descriptors", "threads", "cpu_s", "steps", "run")


def usage(process: psutil.Process) -> tuple[float, int, int, float]:
    """Memory (MiB), descriptors, threads and CPU time (s) of a process and its children."""
    family = [process, *process.children(recursive=True)]
    times = [member.cpu_times() for member in family]
    return (
        sum(member.memory_info().rss for member in family) / 2**20,
        sum(member.num_fds() for member in family),
        sum(member.num_threads() for member in family),
        sum(t.user + t.system for t in times),
    )


def steps_of(runs: Path) -> dict[str, int]:
    """The steps that each run below `runs` has on its record."""
    return {file.parent.name: sum(1 for _ in file.open()) - 1 for file in sorted(runs.glob("*/steps.csv"))}


def sample(process: psutil.Process, runs: Path, writer, every: float) -> None:  # noqa: ANN001
    """A row every `every` seconds until the process ends."""
    start, (_, _, _, cpu), before = time.monotonic(), usage(process), steps_of(runs)
    while True:
        time.sleep(every)
        try:
            memory, descriptors, threads, cpu_now = usage(process)
        except psutil.NoSuchProcess:
            return
        now = steps_of(runs)
        grown = {run: count - before.get(run, 0) for run, count in now.items() if count != before.get(run, 0)}
        minute = (time.monotonic() - start) / 60
        writer.writerow(
            (
                f"{minute:.1f}",
                f"{memory:.0f}",
                descriptors,
                threads,
                f"{cpu_now - cpu:.1f}",
                sum(grown.values()),
                "+".join(grown),
            )
        )
        cpu, before = cpu_now, now


def main() -> None:
    """Start the command and sample it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, required=True, help="where the rows go; rows are added to an existing file")
    parser.add_argument("--runs", type=Path, required=True, help="the folder whose */steps.csv grow")
    parser.add_argument("--every", type=float, default=60, help="seconds between rows")
    parser.add_argument("command", nargs="+", help="after --")
    args = parser.parse_args()
    new = not args.csv.exists()
    with args.csv.open("a", newline="", buffering=1) as file, subprocess.Popen(args.command) as child:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        sample(psutil.Process(child.pid), args.runs, writer, args.every)


if __name__ == "__main__":
    main()
