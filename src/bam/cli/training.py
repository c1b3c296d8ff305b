"""Verbs about training: compare, train, report, recipes."""

import inspect
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bam.recipes import Recipe


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
        attention: variants, the first is the baseline; each may have options (of the module, sites, identity) in
            brackets: 'none,bam,bam(reduction=8,identity=true),se(sites=every block)'.
        seeds: how many seeds; 3 or more give intervals worth reading.
        out: folder of the comparison (default: comparisons/<recipe>).
        data_root: folder of the data (default: $BAM_DATA, or data).
        device: cpu or cuda (default: a GPU if there is one; which: CUDA_VISIBLE_DEVICES).
        save_minutes: minutes between saved states, besides one after every epoch.
    """
    from bam import training
    from bam.recipes import split_variants

    folder = out or Path("comparisons") / recipe.name.replace("/", "-")
    training.keep_freed_memory()
    training.compare(
        recipe, split_variants(attention), seeds, folder, data_root=data_root, device=device, save_minutes=save_minutes
    )
    if int(os.environ.get("RANK", 0)) == 0:
        report(folder)


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
    from bam.recipes import variant
    from bam.training import keep_freed_memory, run

    keep_freed_memory()
    recipe = variant(recipe, recipe.attention)
    folder = out or Path("runs") / f"{recipe.name.replace('/', '-')}-{recipe.attention}-seed{recipe.seed}"
    record = run(recipe, folder, resume=resume, data_root=data_root, device=device, save_minutes=save_minutes)
    if int(os.environ.get("RANK", 0)) == 0:
        found = ", ".join(f"{m.label} {100 * record.final[m.key]:.2f} %" for m in record.measures)
        print(f"{found}; record and weights in {folder}")


def report(out: Path) -> None:
    """Write the report of a comparison again, from the runs that are complete so far.

    Args:
        out: folder of the comparison.
    """
    from bam.reports import summarize, write_report
    from bam.reports.report import table
    from bam.training.comparison import PICTURES, read_comparison

    records, plan = read_comparison(out)
    summary = summarize(records, plan["latency_ms"])
    summary["recipe"] = plan.get("recipe", summary["recipe"])
    pictures = [picture | {"file": f"{PICTURES}/{picture['file']}"} for picture in plan.get("pictures", [])]
    summary["pictures"] = [picture for picture in pictures if (out / picture["file"]).exists()]
    write_report(out, summary, _compare_command(out, summary))
    print(*table(summary), f"report: {out / 'report.html'}", sep="\n")


def predict(
    run: Path,
    images: list[str],
    out: Path = Path("predictions"),
    score: float = 0.3,
) -> None:
    """Find objects in images of your own with a trained detector: pictures with boxes, and a file of what was found.

    Args:
        run: folder of a complete run of detection.
        images: files, or folders of them, separated by commas.
        out: folder for the pictures (PNG) and predictions.json.
        score: least score of a detection that is drawn.
    """
    from bam.training import trained_model

    model, record = trained_model(run)
    if record.recipe.get("task") != "detection":
        raise ValueError(
            f"{run} is a run of classification, and predict draws boxes; for classes: bam export --run {run} --out "
            "FOLDER, then bam.export.from_pretrained and preprocessing"
        )
    from bam.tasks.detection.predict import find_files, predict

    classes = record.classes
    for file, found in predict(model, find_files([Path(image) for image in images]), classes, out, score):
        named = [f"{classes[k - 1]} {v:.2f}" for k, v in zip(found.labels.tolist(), found.scores.tolist(), strict=True)]
        print(f"{file}: {', '.join(named) or f'nothing of score {score} or more'}")
    print(f"pictures and predictions.json in {out}")


def recipes() -> None:
    """List the recipes with what to expect of them."""
    from bam.recipes import RECIPES

    for name, recipe in RECIPES.items():
        print(f"{name}\n    " + inspect.cleandoc(recipe.__doc__ or "").replace("\n", "\n    ") + "\n")
    print(
        "GPU hours are estimated: six operations a multiply-add at 60 TFLOP/s sustained, as large convolutions reach in"
    )
    print("bf16 on one data-centre GPU. Small or depthwise layers and slow decoding of images take longer.")


def _compare_command(out: Path, summary: dict[str, Any]) -> str:
    """The command that repeats a comparison: its recipe, and every field that differs from it."""
    from bam.recipes import RECIPES, Recipe

    recipe, names = Recipe(**summary["recipe"]), [variant["name"] for variant in summary["variants"]]
    known = recipe.name in RECIPES
    source = recipe.name if known else str(out / "recipe.yaml")
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
            text = ",".join(map(str, value)) if isinstance(value, list) else _text(value)
            words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return shlex.join(words)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
