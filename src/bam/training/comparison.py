"""The main job: the same network with and without attention, seed by seed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from bam.costs import latency_ms
from bam.files import write_atomically
from bam.recipes import Recipe, folder_name, variant
from bam.records import Record
from bam.tasks.task import task_of
from bam.training.run import check_folder, run
from bam.training.session import WEIGHTS, check_data
from bam.training.trained import trained_model

PLAN = "comparison.json"
PICTURES = "pictures"  #: folder of what `Task.illustrate` writes


def compare(
    recipe: Recipe,
    attentions: Sequence[str],
    num_seeds: int,
    out: Path,
    *,
    data_root: str | Path | None = None,
    device: str | None = None,
    save_minutes: float = 2.0,
) -> None:
    """Run `recipe` with each of `attentions` for `num_seeds` seeds from the recipe's own on, into folders of `out`.

    Attentions are variants as `bam.recipes.variant` reads them: "none", "bam", "bam(reduction=8)".

    Runs are paired: with the same seed, all variants start from the same backbone weights and see the same images in
    the same order. Complete runs are skipped and unfinished ones go on, so that the same call resumes the whole. Seeds
    are the outer loop: an early stop leaves whole pairs. The latency of all variants is measured at the end.

    Raises:
        ValueError: for fewer than one seed or an attention given twice, and what `run` raises.
        Interrupted: after Ctrl-C or SIGTERM, with the state saved.
    """
    _check_variants(recipe, attentions, num_seeds)
    seeds = range(recipe.seed, recipe.seed + num_seeds)
    variants = [(seed, attention) for seed in seeds for attention in attentions]
    _check(recipe, variants, out, data_root, device)
    earlier = read_comparison(out)[1] if (out / PLAN).exists() else {}
    plan: dict[str, Any] = {
        "recipe": recipe.as_dict(),
        "attention": list(attentions),
        "seeds": list(seeds),
        "latency_ms": earlier.get("latency_ms", {}),
        "pictures": earlier.get("pictures", []),
    }
    write_atomically(out / PLAN, json.dumps(plan, indent=1) + "\n")
    write_atomically(out / "recipe.yaml", recipe.to_yaml())
    for number, (seed, attention) in enumerate(variants, start=1):
        folder = _folder(out, attention, seed)
        run(
            variant(recipe, attention).replace(seed=seed),
            folder,
            resume=True,
            data_root=data_root,
            device=device,
            save_minutes=save_minutes,
            title=f"[{number}/{len(variants)}] {folder.name}",
        )
    if PartialState().is_main_process:
        firsts = {attention: _folder(out, attention, seeds[0]) for attention in attentions}
        plan |= _looked_at(recipe, out, firsts, data_root)
        write_atomically(out / PLAN, json.dumps(plan, indent=1) + "\n")


def read_comparison(out: Path) -> tuple[dict[str, list[Record]], dict[str, Any]]:
    """(variant -> its records so far, the plan) of the comparison in `out`.

    The plan has "latency_ms", variant -> milliseconds; where it tells it, "recipe", as it was before the variants
    changed it; and, of a complete comparison of detectors, "pictures".

    Raises:
        FileNotFoundError: if `out` holds no comparison.
    """
    path = out / PLAN
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: {out} holds no comparison; make one with bam compare")
    try:
        plan = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it: bam compare writes it anew") from None
    records: dict[str, list[Record]] = {}
    for attention in plan["attention"]:
        folders = (_folder(out, attention, seed) for seed in plan["seeds"])
        records[attention] = [Record.read(folder) for folder in folders if (folder / "record.json").exists()]
    return records, plan


def _check_variants(recipe: Recipe, attentions: Sequence[str], num_seeds: int) -> None:
    if num_seeds < 1:
        raise ValueError(f"seeds: at least 1, got {num_seeds}")
    folders = {folder_name(text) for text in attentions}
    recipes = [variant(recipe, text) for text in attentions]
    if not attentions or len(folders) < len(attentions) or any(one in recipes[:k] for k, one in enumerate(recipes)):
        told = ", ".join(attentions) or "none at all"
        raise ValueError(f"attention: each variant once, and no two whose folders have one name; got {told}")


def _check(
    recipe: Recipe,
    variants: Sequence[tuple[int, str]],
    out: Path,
    data_root: str | Path | None,
    device: str | None,
) -> None:
    """Raise what any of the runs would raise at its start, before the first one trains for hours."""
    for seed, attention in variants:
        check_folder(variant(recipe, attention).replace(seed=seed), _folder(out, attention, seed), device)
    task = task_of(recipe)
    with PartialState().main_process_first():  # it may download
        train, test = task.load(recipe, data_root)
    for seed, attention in variants:
        folder = _folder(out, attention, seed)
        if (folder / "record.json").exists():
            check_data(Record.read(folder), train, test, folder)
    for attention in dict.fromkeys(name for _, name in variants):
        task.model(variant(recipe, attention), train)


def _folder(out: Path, attention: str, seed: int) -> Path:
    return out / f"{folder_name(attention)}-seed{seed}"


def _looked_at(recipe: Recipe, out: Path, runs: dict[str, Path], data_root: str | Path | None) -> dict[str, Any]:
    """What the networks of some runs, one a variant, are found to be: their latency, and pictures of what they do."""
    records = {name: Record.read(folder) for name, folder in runs.items()}
    first = next(iter(records.values()))
    device, task = torch.device(first.environment["device"]), task_of(recipe)
    trained = {name: folder for name, folder in runs.items() if (folder / WEIGHTS).exists()}
    if not (task.illustrates and len(trained) == len(runs)):
        models = {name: task.model(Recipe(**record.recipe), record, to_train=False) for name, record in records.items()}
        image = torch.randn(1, 3, *first.image_size, device=device)
        return {"latency_ms": _latency({name: model.to(device) for name, model in models.items()}, image, first)}
    models = {name: trained_model(folder)[0].to(device) for name, folder in trained.items()}
    _, test = task.load(recipe, data_root)
    pictures = task.illustrate(models, test, out / PICTURES)
    (image, *_), _ = next(test.batches(1, device).test())
    return {"latency_ms": _latency(models, image[None], first), "pictures": pictures}


def _latency(models: Mapping[str, nn.Module], image: Tensor, record: Record) -> dict[str, float]:
    """Milliseconds an image, of the networks in the precision that they were trained in."""
    models = {name: model.to(memory_format=torch.channels_last) for name, model in models.items()}
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(record.environment["precision"])
    with torch.autocast(image.device.type, precision, enabled=precision is not None):
        return latency_ms(models, image.to(memory_format=torch.channels_last))
