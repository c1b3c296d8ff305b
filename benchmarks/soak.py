"""Watch memory, open files and the cost of a step over hours of training, which should all stay flat.

    python benchmarks/soak.py --csv soak.csv --runs runs/c100 \\
        -- bam compare --recipe cifar100/resnet20 --epochs 12 --attention none,bam --seeds 3 --out runs/c100

The command runs as usual. Once a minute the script adds a row to the CSV: the resident memory of its processes
(MiB), their open file descriptors and threads, and since the last row their CPU time (s) and the steps of the runs
below `--runs`. Unlike wall time, CPU time per step hardly depends on the machine's other load. The script ends with the
command, and with its exit status. It needs psutil, which Accelerate installs.
"""

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

COLUMNS = ("minute", "memory_mib", "descriptors", "threads", "cpu_s", "steps", "runs")


def usage(process: psutil.Process) -> list[float]:
    """Memory (MiB), descriptors, threads and CPU time (s) of a process and its children."""
    totals = [0.0, 0.0, 0.0, 0.0]
    for member in [process, *process.children(recursive=True)]:
        try:
            times = member.cpu_times()
            values = (
                member.memory_info().rss / 2**20,
                member.num_fds(),
                member.num_threads(),
                sum(times[:4]),
            )  # CPU time includes ended children
        except psutil.NoSuchProcess:  # a worker that has just ended
            continue
        totals = [total + value for total, value in zip(totals, values, strict=True)]
    return totals


def steps_of(runs: Path) -> dict[str, int]:
    """The number of steps recorded by each run below `runs`."""
    return {file.parent.name: sum(1 for _ in file.open()) - 1 for file in sorted(runs.glob("*/steps.csv"))}


def rows(child: subprocess.Popen, runs: Path, every: float) -> Iterator[tuple]:
    """Yield a row every `every` seconds until the child ends."""
    process, start = psutil.Process(child.pid), time.monotonic()
    cpu, before = usage(process)[3], steps_of(runs)
    while True:
        try:
            child.wait(every)
            return
        except subprocess.TimeoutExpired:
            memory, descriptors, threads, cpu_now = usage(process)
        now = steps_of(runs)
        taken = {run: count - before.get(run, 0) for run, count in now.items() if count > before.get(run, 0)}
        minute, used = f"{(time.monotonic() - start) / 60:.2f}", f"{cpu_now - cpu:.1f}"
        yield minute, round(memory), int(descriptors), int(threads), used, sum(taken.values()), "+".join(taken)
        cpu, before = cpu_now, now


def main() -> int:
    """Start the command and sample its usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, required=True, help="CSV file to append rows to")
    parser.add_argument("--runs", type=Path, required=True, help="folder whose */steps.csv count the steps")
    parser.add_argument("--every", type=float, default=60, help="seconds between rows")
    parser.add_argument("command", nargs="+", help="after --")
    args = parser.parse_args()
    new = not args.csv.exists()
    with args.csv.open("a", newline="", buffering=1) as file, subprocess.Popen(args.command) as child:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        writer.writerows(rows(child, args.runs, args.every))
    return child.returncode


if __name__ == "__main__":
    sys.exit(main())
