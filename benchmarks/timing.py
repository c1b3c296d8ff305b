"""Shared by the benchmarks: flags, timing in turns on a noisy machine, and the rows of results.csv."""

import argparse
import csv
import datetime
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from bam.records import environment
from bam.training import keep_freed_memory

RESULTS = Path(__file__).with_name("results.csv")
COLUMNS = (
    "benchmark,date,hardware,threads,versions,subject,shape,dtype,layout,phase,path,"
    "p20_ms,p50_ms,p80_ms,ratio,over,saved,floors"
).split(",")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LAYOUTS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}


def flags(documentation: str, **defaults: int | str) -> argparse.Namespace:
    """Parse a benchmark's command line; `defaults` are its own flags."""
    parser = argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="bf16", choices=list(DTYPES), help="computed under autocast unless fp32")
    parser.add_argument("--layout", default="channels_last", choices=list(LAYOUTS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--rounds", type=int, default=15, help="number of rounds in which the paths take turns")
    parser.add_argument("--compile", action="store_true", help="also time the paths under torch.compile (minutes)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="CSV file to append rows to")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU here")
    keep_freed_memory()  # as in `bam train`; otherwise a path's page faults depend on what ran before it
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch._dynamo.config.recompile_limit = 64  # otherwise the last of many structures would silently run uncompiled
    return args


def autocast(args: argparse.Namespace) -> torch.autocast:
    """The autocast context that the flags ask for."""
    return torch.autocast(args.device, DTYPES[args.dtype], enabled=args.dtype != "fp32")


def interleave(
    paths: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu", warmup: int = 2, before: int = 0
) -> dict[str, list[float]]:
    """Milliseconds per call while the paths take turns.

    The first `warmup` rounds do not count, nor do `before` calls at the beginning of each turn.
    """
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    times: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(rounds + warmup):
        for name, call in paths.items():
            for _ in range(before):
                call()
            wait()
            start = time.perf_counter()
            call()
            wait()
            if number >= warmup:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def report(
    benchmark: str,
    args: argparse.Namespace,
    subject: str,
    shape: str,
    phase: str,
    times: Mapping[str, list[float]],
    over: str,
    saved: Mapping[str, float] | None = None,
    floor: list[float] | None = None,
) -> None:
    """Print quantiles and median ratios over rounds, and append them to the CSV file.

    `ratio` is to the path `over`; `floors` to the times `floor`, in which the same bytes are moved; `saved` is what is
    kept for the backward pass, in units of F.
    """
    known = environment(args.device, "", "")
    hardware = known["processor"] + f" ({torch.backends.cpu.get_cpu_capability()})" * (args.device == "cpu")
    versions = f"bam {importlib.metadata.version('bottleneck-attention')}, torch {torch.__version__}"
    rows = []
    for path, values in times.items():
        p20, _, p80 = (statistics.quantiles(values, n=5)[k] for k in (0, 1, 3))
        ratio = _ratio(values, times[over])
        floors = f"{_ratio(values, floor):.2f}" if floor else ""
        kept = f"{saved[path]:.3f}" if saved and path in saved else ""
        where = [hardware, known["threads"] if args.device == "cpu" else "", versions]
        what = [subject, shape, args.dtype, args.layout, phase, path]
        figures = [f"{p20:.3f}", f"{statistics.median(values):.3f}", f"{p80:.3f}", f"{ratio:.3f}", over, kept, floors]
        rows.append([benchmark, datetime.date.today().isoformat(), *where, *what, *figures])
        told = f"  {floors} floors" * bool(floors) + f"  saves {kept} F" * bool(kept)
        print(
            f"{subject} {shape} {phase:<8} {path:<18} {statistics.median(values):9.2f} ms  x{ratio:.3f}{told}",
            flush=True,
        )
    new = not args.results.exists()
    with open(args.results, "a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(([COLUMNS] if new else []) + rows)


def _ratio(values: list[float], reference: list[float]) -> float:
    return statistics.median(value / base for value, base in zip(values, reference, strict=True))
