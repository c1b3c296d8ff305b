"""Verbs about networks: sites, cost, models, coverage, paper."""

from pathlib import Path
from typing import Any, Literal


def sites(
    model: str,
    image: int | None = None,
    sites: list[str] | None = None,
    attention: str = "bam",
    attention_options: dict[str, Any] | None = None,
    keep: int = 3,
    latency: bool = True,
    num_classes: int | None = None,
) -> None:
    """Show where attention would go in a network and what it would cost there.

    Args:
        model: network, see `bam models`.
        image: side of the image in pixels (default: the network's own, or 224).
        sites: other places than the bottlenecks: names (layer1), inputs ("before layer2"), patterns (layer?.*),
            positions (--sites=-1,0), strides ("stride 8") or "every block" (each residual branch).
        attention: module to price.
        attention_options: passed to it, e.g. '{"reduction": 8}'.
        keep: how many bottlenecks to keep, counted from the deepest.
        latency: measure the forward pass of each module, too.
        num_classes: outputs of the network (default: its own).
    """
    from functools import partial

    from bam.attention import attention_factory
    from bam.models import build
    from bam.placement import find_bottlenecks, select_sites
    from bam.tasks.detection.detectors import DETECTORS

    if model in DETECTORS:
        net, sites = _where_attention_goes(model, sites)
    else:
        net = build(model, num_classes)
    found = select_sites(net, sites, image) if sites else find_bottlenecks(net, image, keep=keep)
    print(found.table(partial(attention_factory(attention), **(attention_options or {})), latency=latency))


def _where_attention_goes(model: str, sites: list[str] | None) -> tuple[Any, list[str] | None]:
    """The part of a detector where attention is looked for, and the names there, if not at its bottlenecks."""
    from bam.models import build
    from bam.recipes import Recipe
    from bam.tasks.detection.build import build_detector
    from bam.tasks.detection.detectors import DETECTORS

    known = DETECTORS[model]
    wanted = sites or list(known.sites or ())
    if any("backbone." in site for site in wanted):
        return build_detector(Recipe(task="detection", model=model), 20), wanted
    print(f"{model} stands on {known.backbone}, and attention sits there:")
    return build(known.backbone), sites


def cost(
    model: str,
    attention: str = "none",
    attention_options: dict[str, Any] | None = None,
    sites: list[str] | None = None,
    image: int | None = None,
    num_classes: int | None = None,
) -> None:
    """Count a network's parameters and multiply-adds (convolutions and linear layers), without and with attention.

    Args:
        model: network, see `bam models`.
        attention: module to put into the network, or "none".
        attention_options: passed to it, e.g. '{"layout": "released"}'.
        sites: where to put it, see `bam sites` (default: the bottlenecks), e.g. "every block".
        image: side of the image in pixels (default: the network's own, or 224).
        num_classes: outputs of the network (default: its own; 100 for cifar/ networks, 20 for detectors, whose images
            have the size to which they resize them).
    """
    from bam.costs import cost, format_count
    from bam.models import build
    from bam.surgery import attach
    from bam.tasks.detection.detectors import DETECTORS

    if attention == "none" and (attention_options or sites):
        raise ValueError("--attention-options and --sites are for an attention: give --attention, e.g. bam")
    if model in DETECTORS:
        _cost_of_detector(model, attention, attention_options or {}, sites, num_classes or 20)
        return
    net = build(model, num_classes)
    plain = cost(net, image)
    print(f"{model}: {plain}")
    if attention != "none":
        full = cost(attach(net, attention, sites=sites, image=image, **(attention_options or {})), image)
        more = f"+{full.params - plain.params:,} parameters, +{format_count(full.macs - plain.macs)} MACs"
        print(f"{model} + {attention}: {full} ({more})")


def _cost_of_detector(
    model: str, attention: str, options: dict[str, Any], sites: list[str] | None, num_classes: int
) -> None:
    from bam.recipes import Recipe
    from bam.tasks.detection.build import build_detector
    from bam.tasks.detection.cost import detector_cost, input_size

    recipe = Recipe(task="detection", model=model)
    net = build_detector(recipe, num_classes)
    print("{}, {} classes, {} x {}: {}".format(model, num_classes, *input_size(net), detector_cost(net)))
    if attention != "none":
        attended = recipe.replace(attention=attention, attention_options=options, sites=sites)
        print(f"{model} + {attention}: {detector_cost(build_detector(attended, num_classes))}")


def models() -> None:
    """List the networks that every verb takes: what they cost, and which convolution of a bottleneck block strides."""
    import torch
    from torchvision.models import list_models

    from bam.costs import cost, format_count
    from bam.models import MODELS, build
    from bam.models.residual import strided_kernel
    from bam.tasks.detection.detectors import DETECTORS

    width = max(map(len, MODELS))
    print(f"{'network':{width}}  parameters     MACs  strides  paper")
    for name, builder in MODELS.items():
        with torch.device("meta"):
            net = build(name)
        counted = cost(net)
        cells = f"{counted.params:>10,}  {format_count(counted.macs):>7}  {strided_kernel(net):7}"
        print(f"{name:{width}}  {cells}  {getattr(builder, 'source', '')}".rstrip(), flush=True)
    print("\ndetector, on the network")
    for name, detector in DETECTORS.items():
        print(f"{name:35}  {detector.backbone:20}  {detector.source}")
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
