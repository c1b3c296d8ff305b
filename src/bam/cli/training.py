"""The verbs about training: compare, train, report, recipes."""

import inspect
import json
import os
import shlex
from pathlib import Path
from typing import Any

from bam.attention.spec import AttentionSpec, split_specs
from bam.cli.grid import grid
from bam.files import inside
from bam.recipes import RECIPES, Recipe, RunOptions

_MOST_SEEDS = 10_000


def compare(
    recipe: Recipe,
    attention: str = "none,bam",
    seeds: str = "3",
    out: Path | None = None,
    jobs: int = 1,
    options: RunOptions = RunOptions(),
) -> None:
    """Find out whether attention helps: train all variants, paired by seed, and report differences with intervals.

    Repeat the command to resume an interrupted comparison; complete runs are skipped.

    Args:
        recipe: name (see `bam recipes`) or YAML file; the fields below change it.
        attention: variants, baseline first; each may have options (of the module, sites, identity) in brackets:
            'none,bam,bam(reduction=8,identity=true),se(sites=bottlenecks)'. `bam modules` lists the modules; name your
            own as <module>:<class>. Each module goes where its paper puts it unless you name sites.
        seeds: number of seeds (3 or more for meaningful intervals), or a range to add to a comparison, e.g. 5:8 for
            seeds 5, 6 and 7.
        out: folder of the comparison (default: comparisons/<recipe>).
        jobs: how many runs train side by side, each in a process of its own. They split the CPU threads and take turns
            over the GPUs. Small networks leave cores idle, so two runs at once finish sooner than two in turn.
    """
    from bam import training
    from bam.reports import expectations

    folder = out or Path("comparisons") / recipe.name.replace("/", "-")
    variants, numbers, first = split_specs(attention), _seeds(seeds), int(os.environ.get("RANK", 0)) == 0
    training.keep_freed_memory()
    if first:
        planned = len(training.planned_seeds(recipe, numbers, folder))
        for line in expectations(training.earlier_comparisons(recipe, folder), planned):
            print(line)
    training.compare(recipe, variants, numbers, folder, options, jobs)
    if first:
        report(folder)


def _seeds(text: str) -> int | range:
    """ "3" -> 3, "5:8" -> range(5, 8)."""
    parts = str(text).split(":")
    if not all(part.isdigit() and len(part) < 10 for part in parts) or len(parts) > 2:
        raise ValueError(f"seeds: give a number of seeds, or a range such as 5:8 for 5, 6 and 7; got {text!r}")
    seeds = int(text) if len(parts) == 1 else range(int(parts[0]), int(parts[1]))
    if (seeds if isinstance(seeds, int) else len(seeds)) > _MOST_SEEDS:
        raise ValueError(f"seeds: at most {_MOST_SEEDS} runs of each variant, got {text!r}")
    return seeds


def train(
    recipe: Recipe,
    out: Path | None = None,
    resume: bool = False,
    options: RunOptions = RunOptions(),
) -> None:
    """Train one network; write its record, weights and training states into a folder.

    Args:
        recipe: name (see `bam recipes`) or YAML file; the fields below change it.
        out: the run's folder (default: runs/<recipe>-<attention>-seed<seed>).
        resume: continue an interrupted run; the final weights are bit-identical to an uninterrupted run's.
    """
    from bam.training import keep_freed_memory, run

    keep_freed_memory()
    folder = out or Path("runs") / f"{recipe.name.replace('/', '-')}-{recipe.attention.name}-seed{recipe.seed}"
    record = run(recipe, folder, options, resume=resume)
    if int(os.environ.get("RANK", 0)) == 0:
        results = ", ".join(f"{m.label} {100 * record.final[m.key]:.2f} %" for m in record.measures)
        print(f"{results}; record and weights in {folder}")


def report(out: Path) -> None:
    """Rewrite a comparison's report from its complete runs.

    Args:
        out: folder of the comparison.
    """
    from bam.reports import summarize, summarize_classes, write_report
    from bam.reports.wording import table
    from bam.training.comparison import PICTURES, class_results, read_comparison

    records, plan = read_comparison(out)
    summary = summarize(records, plan["latency_ms"])
    summary["recipe"] = plan.get("recipe", summary["recipe"])
    summary["probe"] = plan.get("probe")
    summary["grid"] = grid(summary)
    names = [variant["name"] for variant in summary["variants"]]
    summary["classes"] = summarize_classes(class_results(out, plan | {"attention": names}))
    pictures = [picture | {"file": f"{PICTURES}/{picture['file']}"} for picture in plan.get("pictures", [])]
    summary["pictures"] = _below(out, pictures)
    _add_looks(summary, out, plan)
    write_report(out, summary, compare_commands(out, summary))
    print(*table(summary), f"report: {out / 'report.html'}", sep="\n")


def _add_looks(summary: dict[str, Any], out: Path, plan: dict[str, Any]) -> None:
    """Add each variant's attention statistics and pictures to the summary, and write its gallery."""
    from bam.reports.gallery import write_gallery
    from bam.training.looks import read_looks

    for text, folder, look in read_looks(out, plan):
        if "problem" in look:
            summary["attention"].append({"name": text, **look})
            continue
        views, pictures = look.pop("views"), look.pop("pictures")
        title = f"{summary['recipe']['model']} with {text}, seed {look['seed']}: what it attends to"
        page = write_gallery(folder, title, views)
        pictures = [picture | {"file": str((folder / picture["file"]).relative_to(out))} for picture in pictures]
        existing = _below(out, pictures)
        gallery = str(page.relative_to(out))
        summary["attention"].append({"name": text, "problem": "", "gallery": gallery, "pictures": existing, **look})


def _below(out: Path, pictures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `pictures` whose files exist; the files must lie below the comparison's folder."""
    paths = [inside(out, picture["file"], "the comparison", follow_links=True) for picture in pictures]
    return [picture for picture, path in zip(pictures, paths, strict=True) if path.exists()]


def recipes() -> None:
    """List the recipes, with expected results and commands."""
    for name, recipe in RECIPES.items():
        print(f"{name}\n    " + inspect.cleandoc(recipe.__doc__ or "").replace("\n", "\n    ") + "\n")
    print(
        "GPU hours are estimates: six operations per multiply-add at a sustained 60 TFLOP/s, which large convolutions\n"
        "reach in bf16 on one data-centre GPU. Small or depthwise layers and slow image decoding make it longer."
    )


def compare_commands(out: Path, summary: dict[str, Any]) -> str:
    """The commands that repeat a comparison in a new folder, one line per range of consecutive seeds."""
    seeds = sorted({*summary["variants"][0]["seeds"], *(failure["seed"] for failure in summary.get("failures", []))})
    starts = [seed for seed in seeds if seed - 1 not in seeds]
    ends = [seed + 1 for seed in seeds if seed + 1 not in seeds]
    simple = starts == [summary["recipe"]["seed"]]
    ranges = [str(len(seeds))] if simple else [f"{start}:{end}" for start, end in zip(starts, ends, strict=True)]
    return "\n".join(f"{_compare_command(out, summary, text)} --out repeated" for text in ranges)


def _compare_command(out: Path, summary: dict[str, Any], seeds: str | None = None) -> str:
    """The command that repeats a comparison: its recipe, and a flag for each changed field."""
    recipe, names = Recipe.from_dict(summary["recipe"]), [variant["name"] for variant in summary["variants"]]
    names += dict.fromkeys(failure["name"] for failure in summary.get("failures", []) if failure["name"] not in names)
    known = recipe.name in RECIPES
    source = recipe.name if known else str(out / "recipe.yaml")
    words = ["bam", "compare", "--recipe", source, "--attention", ",".join(names)]
    words += ["--model", recipe.model] if not known and ":" in recipe.model else []  # a recipe file may not run code
    words += ["--seeds", seeds or str(len(summary["variants"][0]["seeds"]))]
    named = Recipe.from_dict(RECIPES[recipe.name]().as_dict() | {"task": recipe.task}) if known else recipe
    changes = named.differences(recipe)
    if known and recipe.task != RECIPES[recipe.name]().task:
        words += ["--task", recipe.task]
    changes.pop("attention", None)  # the variants already name it
    changes |= _parts(named.attention, recipe.attention)
    for key, (_, value) in changes.items():
        flag = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag if value else flag.replace("--", "--no-")]
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else _text(value)
            words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return shlex.join(words)


def _parts(before: AttentionSpec, after: AttentionSpec) -> dict[str, tuple[Any, Any]]:
    """The differences between two specifications except in name, as recipe fields: field -> (before, after)."""
    parts = {
        "attention_options": (before.options, after.options),
        "sites": (before.sites and list(before.sites), after.sites and list(after.sites)),
        "identity": (before.identity, after.identity),
    }
    return {name: values for name, values in parts.items() if values[0] != values[1]}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
