"""Verbs about networks: sites, cost, models, coverage, paper."""

from pathlib import Path
from typing import Literal

from bam.attention.spec import AttentionSpec
from bam.cli.exporting import check_named
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
    """Show where attention would go in a network and what it would cost there.

    Args:
        model: network, see `bam models`.
        image: side of the image in pixels (default: the network's own, or 224).
        attention: module to price, with its options and sites in brackets: 'bam(reduction=8, sites=layer2)'. Sites are
            names (layer1), inputs (before layer2), patterns (layer?.*), positions (-1), strides (stride 8) or
            "every block" (each residual branch).
        keep: how many bottlenecks to keep, counted from the deepest.
        latency: measure the forward pass of each module, too.
        num_classes: outputs of the network (default: its own).
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
        attention: module to put into the network, with its options and sites in brackets:
            'bam(layout=released)', 'se(sites=every block)'; or "none".
        image: side of the image in pixels (default: the network's own, or 224).
        num_classes: outputs of the network (default: its own; 100 for cifar/ networks, 20 for detectors, whose images
            have the size to which they resize them).
    """
    from bam.tasks import task_knowing

    check_named(attention)
    task = task_knowing(model)
    price = task(_recipe(task.name, model, attention)).price(num_classes, image)
    print(f"{model}{', ' * bool(price.conditions)}{price.conditions}: {price.plain}")
    if price.attended is not None:
        params, macs = price.attended.params - price.plain.params, price.attended.macs - price.plain.macs
        more = f"+{params:,} parameters, +{format_count(macs)} MACs"
        print(f"{model} + {attention.name}: {price.attended} ({more})")


def _recipe(task: str, model: str, attention: AttentionSpec) -> Recipe:
    return Recipe.from_dict({"task": task, "model": model}).replace(attention=attention)


def models() -> None:
    """List the networks that every verb takes: what they cost, and which convolution of a bottleneck block strides."""
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
    print(f"\nand torchvision's {len(list_models())} by their names (resnet50, ...), timm's as timm/<name>,")
    print("and your own as <module>:<function>, where the function returns the network")


def coverage(
    library: Literal["both", "torchvision", "timm"] = "both",
    all: bool = False,
    models: list[str] | None = None,
    out: Path = Path("coverage"),
    jobs: int = 2,
    timeout: int = 900,
) -> None:
    """Try attention on every network of torchvision and timm, and write a page of what came of it.

    The same command goes on where an interrupted survey stopped. docs/coverage.md is such a page.

    Args:
        library: both, torchvision or timm.
        all: every network of timm, not one of each family.
        models: only these (timm/<name>), again if they were tried already.
        out: folder for coverage.csv and coverage.md.
        jobs: how many processes.
        timeout: seconds after which a network is given up.
    """
    from bam.coverage import candidates, survey, write_page

    wanted = candidates(library, all or models is not None)
    unknown = sorted(set(models or []) - {one.name for one in wanted})
    if unknown:
        raise ValueError(f"neither torchvision nor timm has {', '.join(unknown)}; timm's are timm/<name>")
    if models:
        wanted = [one for one in wanted if one.name in models]
    survey(wanted, out / "coverage.csv", jobs=jobs, timeout=timeout, again=bool(models))
    write_page(out / "coverage.md", out / "coverage.csv", f"bam coverage --out {out}")
    print(f"page: {out / 'coverage.md'}")


def paper(table: str = "", out: Path | None = None) -> None:
    """Show the paper's tables beside what this package counts: parameters and multiply-adds of every row.

    Args:
        table: only those whose title contains this, e.g. SE, ablation, ImageNet (default: all).
        out: a Markdown page to put all of them into, between its marks (docs/reproducing.md).
    """
    from bam.paper import TABLES, markdown, write_tables

    if out is not None:
        write_tables(out)
        return
    titles = [title for title in TABLES if table.lower() in title.lower()]
    if not titles:
        raise ValueError(f"no table has {table!r} in its title; there are: {'; '.join(TABLES)}")
    for title in titles:
        print(markdown([title]), flush=True)
