"""Timing on a noisy machine: what is compared runs in turn in one process, and ratios are what counts."""

import csv
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from bam.records import environment

RESULTS = Path(__file__).with_name("results.csv")
COLUMNS = "benchmark,processor,threads,torch,setting,path,p20_ms,p50_ms,p80_ms,ratio_to_first".split(",")


def interleave(paths: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Milliseconds of each call, the paths taking turns; the first `warmup` rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(rounds + warmup):
        for name, call in paths.items():
            start = time.perf_counter()
            call()
            if number >= warmup:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def report(benchmark: str, setting: str, times: Mapping[str, list[float]]) -> None:
    """Print and append to results.csv: quantiles, and the median over rounds of the ratio to the first path."""
    known = environment("cpu", "")
    first = next(iter(times.values()))
    rows = []
    for name, values in times.items():
        p20, _, p80 = (statistics.quantiles(values, n=5)[k] for k in (0, 1, 3))
        ratio = statistics.median(value / base for value, base in zip(values, first, strict=True))
        rows.append([benchmark, known["processor"], known["threads"], torch.__version__, setting, name,
                     f"{p20:.1f}", f"{statistics.median(values):.1f}", f"{p80:.1f}", f"{ratio:.3f}"])  # fmt: skip
        print(f"{setting}  {name:<10} {rows[-1][7]:>8} ms  x{ratio:.3f}")
    new = not RESULTS.exists()
    with open(RESULTS, "a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows(([COLUMNS] if new else []) + rows)
