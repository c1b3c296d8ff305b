"""The verbs about networks: sites, cost, models, modules, coverage, paper."""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bam.attention.spec import AttentionSpec
from bam.cli.named import check_named
from bam.costs import format_count
from bam.recipes import Recipe


def sites(
    model: str,
    image: int | None = None,
    attention: AttentionSpec = AttentionSpec("bam"),
    keep: int = 3,
    latency: bool = True,
    num_classes: int | None = None,
) -> None:
    """Show where attention would go in a network, and what it would cost.

    Args:
        model: network, see `bam models`.
        image: image size in pixels (default: the network's own, or 224).
        attention: attention module, with options and sites in brackets: 'bam(reduction=8, sites=layer2)'. Sites are
            "bottlenecks", "every block" (each residual branch), names (layer1), inputs (before layer2), patterns
            (layer?.*), positions (-1), strides (stride 8), "input" (the image), or "3x3 convolutions of the last stage"
            ("... of stride 16"), which deformable replaces; default: where the module's paper puts it.
        keep: number of bottlenecks to keep, counted from the deepest.
        latency: also measure each module's forward pass.
        num_classes: number of outputs (default: the network's own).
    """
    from bam.tasks import task_knowing

    task = task_knowing(model)
    places, remark = task(_recipe(task.name, model, attention)).sites(num_classes, image, keep)
    if remark:
        print(remark)
    print(places.table(attention, latency=latency))


def cost(
    model: str,
    attention: AttentionSpec = AttentionSpec(),
    image: int | None = None,
    num_classes: int | None = None,
) -> None:
    """Count a network's parameters and multiply-adds (convolutions and linear layers), without and with attention.

    Args:
        model: network, see `bam models`.
        attention: attention module, with options and sites in brackets:
            'bam(layout=released)', 'se(sites=bottlenecks)'; or "none".
        image: image size in pixels (default: the network's own, or 224; detectors are counted at the size they resize
            images to).
        num_classes: number of outputs (default: the network's own; 100 for cifar/ networks, 20 for detectors).
    """
    from bam.tasks import task_knowing

    check_named(attention)
    task = task_knowing(model)
    price = task(_recipe(task.name, model, attention)).price(num_classes, image)
    print(f"{model}{', ' * bool(price.conditions)}{price.conditions}: {price.plain}")
    if price.attended is not None:
        params, macs = price.attended.params - price.plain.params, price.attended.macs - price.plain.macs
        difference = f"+{params:,} parameters, +{format_count(macs)} MACs"
        print(f"{model} + {attention.name}: {price.attended} ({difference})")


def _recipe(task: str, model: str, attention: AttentionSpec) -> Recipe:
    return Recipe.from_dict({"task": task, "model": model}).replace(attention=attention)


def models() -> None:
    """List the networks that verbs accept, with their cost and the strided convolution of their bottleneck blocks."""
    import torch
    from torchvision.models import list_models

    from bam.costs import cost
    from bam.models import MODELS, build
    from bam.models.residual import strided_kernel
    from bam.tasks import available_tasks

    width = max(map(len, MODELS))
    print(f"{'network':{width}}  parameters     MACs  strides  paper")
    for name, builder in MODELS.items():
        with torch.device("meta"):
            net = build(name)
        counted = cost(net)
        cells = f"{counted.params:>10,}  {format_count(counted.macs):>7}  {strided_kernel(net):7}"
        print(f"{name:{width}}  {cells}  {getattr(builder, 'source', '')}".rstrip(), flush=True)
    for task in available_tasks():
        if task.catalogue():
            print("", *task.catalogue(), sep="\n")
    print(f"\nalso torchvision's {len(list_models())} networks by name (resnet50, ...), timm's as timm/<name>,")
    print("and your own as <module>:<function>, where the function returns the network")


def modules(model: str = "resnet50") -> None:
    """List the attention modules: their paper, their usual sites, and their cost there in a network.

    Parameters and multiply-adds are counted as in `bam cost`, without simple arithmetic such as pooling; "-" if the
    network has no such sites.

    Args:
        model: network, see `bam models`.
    """
    import torch

    from bam.attention.contract import usual_sites
    from bam.attention.table import ATTENTION
    from bam.costs import cost
    from bam.models import build
    from bam.surgery import attach

    with torch.device("meta"):
        plain = cost(build(model))
    rows = [["name", "paper", "usual sites", f"parameters on {model}", "MACs"]]
    for name, module in ATTENTION.items():
        try:
            with torch.device("meta"):
                attended = cost(attach(build(model), name))
            added = [f"+{attended.params - plain.params:,}", f"+{format_count(attended.macs - plain.macs)}"]
        except ValueError:  # the network has no such sites, or the image enters it in many places
            added = ["-", "-"]
        rows.append([f"`{name}`", _papers(module), usual_sites(module), *added])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * (width - (k > 2)) + ":" * (k > 2) for k, width in enumerate(widths)])
    for row in rows:
        cells = [cell.rjust(w) if k > 2 else cell.ljust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))]
        print(f"| {' | '.join(cells)} |")


def _papers(module: type) -> str:
    """Links to the papers named in the first docstring line of a module's file."""
    head = (sys.modules[module.__module__].__doc__ or "").partition("\n")[0]
    if numbers := re.findall(r"\d{4}\.\d{5}", head):
        return ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in numbers)
    venue, link = re.search(r"[A-Z]+ \d{4}", head), re.search(r"https://[^\s)]+", head)
    return f"[{venue[0]}]({link[0]})" if venue and link else ""


@dataclass(frozen=True)
class Surveyed:
    """The networks and attention modules to try.

    Attributes:
        library: both, torchvision or timm.
        all: every network of timm, not just one per family.
        models: only these networks (timm/<name>), even if already tried.
        short: ten networks of many kinds, with every attention module.
        attention: attention modules to try, separated by commas (default: bam; with --short all of `bam modules`).
    """

    library: Literal["both", "torchvision", "timm"] = "both"
    all: bool = False
    models: list[str] | None = None
    short: bool = False
    attention: str | None = None


def coverage(tried: Surveyed = Surveyed(), out: Path = Path("coverage"), jobs: int = 2, timeout: int = 900) -> None:
    """Try attention on every network of torchvision and timm, and write the results to a page.

    Repeat the command to resume an interrupted survey. docs/coverage.md is an example.

    Args:
        out: folder for coverage.csv and coverage.md.
        jobs: number of processes.
        timeout: time limit per network in seconds.
    """
    from bam.attention import ATTENTION, AttentionSpec, split_specs
    from bam.coverage import SHORT, candidates, survey, write_page

    if tried.short and (tried.models or tried.all):
        raise ValueError("--short tries ten networks of its own: leave --models and --all out")
    names = SHORT if tried.short else tried.models
    networks = candidates(tried.library, tried.all or names is not None)
    unknown = sorted(set(tried.models or []) - {network.name for network in networks})
    if unknown:
        raise ValueError(f"neither torchvision nor timm has {', '.join(unknown)}; write timm's as timm/<name>")
    modules = split_specs(tried.attention) if tried.attention else list(ATTENTION) if tried.short else ["bam"]
    for module in modules:
        AttentionSpec.parse(module).build(64)  # refuses unknown names and options
    networks = [network for network in networks if names is None or network.name in names]
    networks = [network._replace(attention=module) for network in networks for module in modules]
    survey(networks, out / "coverage.csv", jobs=jobs, timeout=timeout, again=tried.models is not None)
    write_page(out / "coverage.md", out / "coverage.csv", shlex.join(_coverage_command(tried, out)))
    print(f"page: {out / 'coverage.md'}")


def _coverage_command(tried: Surveyed, out: Path) -> list[str]:
    """The command that repeats a survey."""
    flags = [f"--{name}" for name in ("all", "short") if getattr(tried, name)]
    flags += ["--library", tried.library] if tried.library != "both" else []
    flags += ["--models", ",".join(tried.models)] if tried.models else []
    flags += ["--attention", tried.attention] if tried.attention else []
    return ["bam", "coverage", *flags, "--out", str(out)]


def paper(table: str = "", out: Path | None = None) -> None:
    """Show the paper's tables beside this package's counts: parameters and multiply-adds of every row.

    Args:
        table: only tables with this in their title, e.g. SE, ablation, ImageNet (default: all).
        out: write all tables into this Markdown page between its markers, as in docs/reproducing.md.
    """
    from bam.paper import TABLES, markdown, write_tables

    if out is not None:
        write_tables(out)
        return
    titles = [title for title in TABLES if table.lower() in title.lower()]
    if not titles:
        raise ValueError(f"no table has {table!r} in its title; the tables are: {'; '.join(TABLES)}")
    for title in titles:
        print(markdown([title]), flush=True)
