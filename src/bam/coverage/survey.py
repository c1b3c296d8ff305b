"""Check all networks in several processes; an interrupted survey resumes where it stopped."""

import csv
import dataclasses
import io
import multiprocessing
import signal
import typing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import torch

from bam.coverage.checks import check
from bam.coverage.row import Row
from bam.files import append, write_atomically
from bam.models import build

#: Networks of many kinds, for a short survey of every attention module.
SHORT = (
    "resnet18 vgg11_bn densenet121 googlenet mobilenet_v3_small efficientnet_b0 regnet_y_400mf convnext_tiny "
    "timm/tf_efficientnet_lite0 timm/resnet10t"
).split()
COLUMNS = [field.name for field in dataclasses.fields(Row)]


class Candidate(typing.NamedTuple):
    """What to check: a network's library, its family there and its name for `bam.models.build`; and the attention."""

    library: str
    family: str
    name: str
    attention: str = "bam"


def candidates(library: str = "both", every: bool = False) -> list[Candidate]:
    """torchvision's classification networks, and the first network of each timm family (or `every` timm network).

    A timm family is a module of `timm.models`; its first network is the first name in timm's order.

    Raises:
        ImportError: if timm is requested but not installed.
    """
    networks = []
    if library in ("both", "torchvision"):
        from torchvision import models

        names = models.list_models(module=models)
        networks += [
            Candidate("torchvision", models.get_model_builder(name).__module__.split(".")[-1], name) for name in names
        ]
    if library in ("both", "timm"):
        try:
            from timm.models import list_models, list_modules
        except ImportError:
            raise ImportError("timm's networks need timm: pip install 'bottleneck-attention[timm]'") from None
        for family in sorted(list_modules()):
            names = list_models(module=family)
            networks += [Candidate("timm", family, f"timm/{name}") for name in (names if every else names[:1])]
    return networks


def survey(
    networks: Sequence[Candidate], path: Path, *, jobs: int = 2, timeout: int = 900, again: bool = False
) -> list[Row]:
    """Check the networks and append their rows to a CSV file; returns the rows of all `networks`.

    Args:
        networks: the networks to check.
        path: the CSV file.
        jobs: number of processes.
        timeout: time limit per network in seconds.
        again: also check networks that already have a row.
    """
    from rich.progress import Progress

    if not path.exists():
        write_atomically(path, ",".join(COLUMNS) + "\n")
    if path.read_text(encoding="utf-8").partition("\n")[0] != ",".join(COLUMNS):
        raise ValueError(f"{path} has other columns, from an earlier version: move it away, or choose another --out")
    done = set(map(_key, read(path)))
    pending = [network for network in networks if again or _key(network) not in done]
    with Progress() as display:
        bar = display.add_task("networks", total=len(networks), completed=len(networks) - len(pending))
        while pending:
            for row in _run(pending, jobs, timeout):
                append(path, _line(row))
                pending = [network for network in pending if _key(network) != _key(row)]
                result = "refused" if row.refused else "pass" if row.passed else f"FAIL {row.reason}"
                display.console.print(
                    f"{row.library} {row.name}, {row.attention}: {result}", soft_wrap=True, highlight=False
                )
                display.advance(bar)
    names = set(map(_key, networks))
    return [row for row in read(path) if _key(row) in names]


def _key(one: Candidate | Row) -> tuple[str, str, str]:
    """What tells checks apart."""
    return one.library, one.name, one.attention


def read(path: Path) -> list[Row]:
    """The rows of a survey's CSV file by library, family and name; the last row of a repeated network counts."""
    kinds = typing.get_type_hints(Row)
    with open(path, newline="", encoding="utf-8") as file:
        rows = [Row(**{key: kinds[key](value) for key, value in line.items()}) for line in csv.DictReader(file)]
    latest = {(row.library, row.family, row.name, row.attention): row for row in rows}
    return [latest[key] for key in sorted(latest, key=lambda key: (key[0] != "torchvision", *key[1:]))]


def _run(networks: Sequence[Candidate], jobs: int, timeout: int) -> Iterator[Row]:
    """Yield rows as they complete; if a process dies, report the network that caused it and end early."""
    context = multiprocessing.get_context("spawn")
    running: dict[Future[Row], Candidate] = {}
    waiting = list(networks)
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while waiting or running:
            while waiting and len(running) < jobs:
                network = waiting.pop(0)
                running[pool.submit(_check, network, timeout)] = network
            future = next(as_completed(running))
            try:
                row = future.result()
            except BrokenProcessPool:
                break
            del running[future]
            yield row
    if len(running) == 1:
        network = running.popitem()[1]
        reason = "sites: the process died; is there enough memory?"
        yield Row(*network[:3], sites="fail", reason=reason, attention=network.attention)
    for suspect in running.values():
        yield from _run([suspect], 1, timeout)


def _check(network: Candidate, timeout: int) -> Row:
    def give_up(number: int, frame: object) -> None:
        raise TimeoutError(f"not done after {timeout} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(timeout)
    try:
        return check(*network[:3], partial(build, network.name, 1000), network.attention)
    finally:
        signal.alarm(0)


def _line(row: Row) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(dataclasses.astuple(row))
    return text.getvalue()
