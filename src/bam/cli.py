"""The command `bam`: each verb is a typed function; its signature and docstring are the verb's flags and help."""

import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bam.flags import parse_flags

if TYPE_CHECKING:
    from bam.recipes import Recipe


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
            positions (-1) or strides ("stride 8").
        attention: module to price.
        attention_options: passed to it, e.g. '{"reduction": 8}'.
        keep: how many bottlenecks to keep, counted from the deepest.
        latency: measure the forward pass of each module, too.
        num_classes: outputs of the network (default: its own).
    """
    from functools import partial

    from bam.models import build
    from bam.placement import find_bottlenecks, select_sites
    from bam.surgery import attention_factory

    net = build(model, num_classes)
    found = select_sites(net, sites, image) if sites else find_bottlenecks(net, image, keep=keep)
    print(found.table(partial(attention_factory(attention), **(attention_options or {})), latency=latency))


def cost(
    model: str,
    attention: str = "none",
    attention_options: dict[str, Any] | None = None,
    image: int | None = None,
    num_classes: int | None = None,
) -> None:
    """Count a network's parameters and multiply-adds (convolutions and linear layers), without and with attention.

    Args:
        model: network, see `bam models`.
        attention: module to put at the bottlenecks, or "none".
        attention_options: passed to it, e.g. '{"layout": "released"}'.
        image: side of the image in pixels (default: the network's own, or 224).
        num_classes: outputs of the network (default: its own; 100 for cifar/ networks).
    """
    from bam.costs import cost, format_count
    from bam.models import build
    from bam.surgery import attach

    net = build(model, num_classes)
    plain = cost(net, image)
    print(f"{model}: {plain}")
    if attention != "none":
        full = cost(attach(net, attention, image=image, **(attention_options or {})), image)
        more = f"+{full.params - plain.params:,} parameters, +{format_count(full.macs - plain.macs)} MACs"
        print(f"{model} + {attention}: {full} ({more})")


def models() -> None:
    """List the networks that every verb takes."""
    from torchvision.models import list_models

    from bam.models import MODELS

    print(*MODELS, sep="\n")
    print(f"and torchvision's {len(list_models())} by their names (resnet50, ...), timm's as timm/<name>,")
    print("and your own as <module>:<function>, where the function returns the network")


def recipes() -> None:
    """List the recipes with what to expect of them."""
    from bam.recipes import RECIPES

    for name, recipe in RECIPES.items():
        print(f"{name}\n    " + inspect.cleandoc(recipe.__doc__ or "").replace("\n", "\n    ") + "\n")


def train(
    recipe: "Recipe",
    out: Path | None = None,
    resume: bool = False,
    data_root: Path | None = None,
    device: str | None = None,
    save_minutes: float = 2.0,
) -> None:
    """Train one network into a folder with its record, weights and training states.

    Args:
        recipe: name (see `bam recipes`) or YAML file; every field below changes it.
        out: the run's folder (default: runs/<recipe>-<attention>-seed<seed>).
        resume: go on where an interrupted run stopped; ends in the same weights bit for bit.
        data_root: folder of the data (default: $BAM_DATA, or data).
        device: cpu or cuda (default: a GPU if there is one; which: CUDA_VISIBLE_DEVICES).
        save_minutes: minutes between saved states, besides one after every epoch.
    """
    from bam.training import run

    folder = out or Path("runs") / f"{recipe.name.replace('/', '-')}-{recipe.attention}-seed{recipe.seed}"
    record = run(recipe, folder, resume=resume, data_root=data_root, device=device, save_minutes=save_minutes)
    print(f"test error {100 * record.final['test_error']:.2f} %; record and weights in {folder}")


def compare(
    recipe: "Recipe",
    attention: str = "none,bam",
    seeds: int = 3,
    out: Path | None = None,
    data_root: Path | None = None,
    device: str | None = None,
    save_minutes: float = 2.0,
) -> None:
    """Find out whether attention helps: train all variants, paired by seed, and report with intervals.

    The same command goes on where an interrupted comparison stopped and skips the runs that are done.

    Args:
        recipe: name (see `bam recipes`) or YAML file; every field below changes it.
        attention: variants, the first is the baseline.
        seeds: how many seeds; 3 or more give intervals worth reading.
        out: folder of the comparison (default: comparisons/<recipe>).
        data_root: folder of the data (default: $BAM_DATA, or data).
        device: cpu or cuda (default: a GPU if there is one; which: CUDA_VISIBLE_DEVICES).
        save_minutes: minutes between saved states, besides one after every epoch.
    """
    from bam import training

    folder = out or Path("comparisons") / recipe.name.replace("/", "-")
    training.compare(
        recipe, attention.split(","), seeds, folder, data_root=data_root, device=device, save_minutes=save_minutes
    )
    if int(os.environ.get("RANK", 0)) == 0:
        report(folder)


def report(out: Path) -> None:
    """Write the report of a comparison again, from the runs that are complete so far.

    Args:
        out: folder of the comparison.
    """
    from bam.reports import summarize, write_report
    from bam.reports.report import table
    from bam.training.comparison import read_comparison

    records, latency = read_comparison(out)
    summary = summarize(records, latency)
    write_report(out, summary, _compare_command(out, summary))
    print(*table(summary), f"report: {out / 'report.html'}", sep="\n")


def coverage(
    library: Literal["both", "torchvision", "timm"] = "both",
    every: bool = False,
    models: list[str] | None = None,
    out: Path = Path("coverage"),
    jobs: int = 2,
    timeout: int = 900,
) -> None:
    """Try attention on every network of torchvision and timm, and write a page of what came of it.

    The same command goes on where an interrupted survey stopped. docs/coverage.md is such a page.

    Args:
        library: both, torchvision or timm.
        every: every network of timm, not one of each family.
        models: only these (timm/<name>), again if they were tried already.
        out: folder for coverage.csv and coverage.md.
        jobs: how many processes.
        timeout: seconds after which a network is given up.
    """
    from bam.coverage import candidates, survey, write_page

    wanted = candidates(library, every or models is not None)
    unknown = sorted(set(models or []) - {one.name for one in wanted})
    if unknown:
        raise ValueError(f"neither torchvision nor timm has {', '.join(unknown)}; timm's are timm/<name>")
    if models:
        wanted = [one for one in wanted if one.name in models]
    survey(wanted, out / "coverage.csv", jobs=jobs, timeout=timeout, again=bool(models))
    command = f"bam coverage --library {library}" + (" --every" if every else "")
    write_page(out / "coverage.md", out / "coverage.csv", command)
    print(f"page: {out / 'coverage.md'}")


def _compare_command(out: Path, summary: dict[str, Any]) -> str:
    """The command that repeats a comparison: its recipe, and every field that differs from it."""
    from bam.recipes import RECIPES, Recipe

    recipe, names = Recipe(**summary["recipe"]), [variant["name"] for variant in summary["variants"]]
    known = recipe.name in RECIPES
    source = recipe.name if known else str(out / f"{names[0]}-seed{recipe.seed}" / "recipe.yaml")
    words = ["bam", "compare", "--recipe", source, "--attention", ",".join(names)]
    words += ["--seeds", str(len(summary["variants"][0]["seeds"]))]
    changes = RECIPES[recipe.name]().differences(recipe) if known else {}
    for key, (_, value) in changes.items():
        if key == "attention":  # the variants are named above
            continue
        flag = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag if value else flag.replace("--", "--no-")]
        else:
            words += [flag, ",".join(map(str, value)) if isinstance(value, list) else _text(value)]
    return shlex.join(words)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


VERBS: dict[str, Callable[..., None]] = {
    function.__name__: function for function in (compare, train, report, sites, cost, models, recipes, coverage)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status: 0, 1 for an error that was told, 2 for a wrong call, 130 if interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from bam import __version__

        print(f"bam {__version__}")
        return 0
    if words[0] not in VERBS:
        print(f"bam: unknown verb {words[0]!r}\n\n{_overview()}", file=sys.stderr)
        return 2
    try:
        verb = VERBS[words[0]]
        verb(**parse_flags(verb, words[1:]))
        return 0
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("BAM_DEBUG"):
            raise
        print(f"bam {words[0]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        go_on = words + (["--resume"] if words[0] == "train" and "--resume" not in words else [])
        print(f"bam {words[0]}: {stop or 'stopped'}\ngo on with: bam {shlex.join(go_on)}", file=sys.stderr)
        return 130


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = (f"  {name:<{width}}  {(inspect.getdoc(verb) or '').splitlines()[0]}" for name, verb in VERBS.items())
    return "\n".join(["usage: bam VERB [--flags]   (bam VERB --help explains a verb)", "", *lines])
