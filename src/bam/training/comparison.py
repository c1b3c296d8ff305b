"""Paired comparison: the same network with and without attention, seed by seed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from torch import Tensor, nn

from bam.costs import latency_ms
from bam.files import write_atomically
from bam.recipes import Recipe, RunOptions, folder_name, variant
from bam.records import Record
from bam.tasks import task_of
from bam.training.run import accelerate_afresh, check_folder, run
from bam.training.session import WEIGHTS, check_data
from bam.training.trained import trained_model

PLAN = "comparison.json"
PICTURES = "pictures"  #: folder for the output of `Task.illustrate`


def compare(
    recipe: Recipe, attentions: Sequence[str], num_seeds: int, out: Path, options: RunOptions | None = None
) -> None:
    """Train `recipe` with each of `attentions` for `num_seeds` seeds, starting at the recipe's; results go to `out`.

    Attentions are variants for `bam.recipes.variant`: "none", "bam", "bam(reduction=8)". Runs are paired: for the same
    seed, all variants start from the same backbone weights and see the same images in the same order. Complete runs are
    skipped and unfinished ones continue, so repeating the call resumes the comparison. Seeds are the outer loop: an
    early stop leaves whole pairs. Latency is measured at the end.

    Raises:
        ValueError: for fewer than one seed or a duplicate attention; also the errors of `run`.
        Interrupted: after Ctrl-C or SIGTERM, with the state saved.
    """
    options = options or RunOptions()
    _check_variants(recipe, attentions, num_seeds)
    seeds = range(recipe.seed, recipe.seed + num_seeds)
    runs = [
        _Run(variant(recipe, text).replace(seed=seed), _folder(out, text, seed))
        for seed in seeds
        for text in attentions
    ]
    with accelerate_afresh(options.device):
        _check(recipe, runs, options)
    old_plan = read_comparison(out)[1] if (out / PLAN).exists() else {}
    plan: dict[str, Any] = {
        "recipe": recipe.as_dict(),
        "attention": list(attentions),
        "seeds": list(seeds),
        "latency_ms": old_plan.get("latency_ms", {}),
        "pictures": old_plan.get("pictures", []),
    }
    write_atomically(out / PLAN, json.dumps(plan, indent=1) + "\n")
    write_atomically(out / "recipe.yaml", recipe.to_yaml())
    for number, (run_recipe, folder) in enumerate(runs, start=1):
        run(run_recipe, folder, options, resume=True, title=f"[{number}/{len(runs)}] {folder.name}")
    with accelerate_afresh(options.device):
        if PartialState().is_main_process:
            folders = {text: _folder(out, text, seeds[0]) for text in attentions}
            plan |= _latency_and_pictures(recipe, out / PICTURES, folders, options)
            write_atomically(out / PLAN, json.dumps(plan, indent=1) + "\n")


class _Run(NamedTuple):
    recipe: Recipe
    folder: Path


def read_comparison(out: Path) -> tuple[dict[str, list[Record]], dict[str, Any]]:
    """Read the comparison in `out`; returns (variant -> its records so far, the plan).

    The plan has "latency_ms" (variant -> milliseconds), "recipe" (before the variants change it; missing in old files)
    and "pictures" (of a complete comparison of detectors).

    Raises:
        FileNotFoundError: if `out` holds no comparison.
        ValueError: if its plan is damaged.
    """
    path = out / PLAN
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: {out} holds no comparison; run bam compare first")
    try:
        plan = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and bam compare writes it again") from None
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
    duplicates = any(recipe in recipes[:k] for k, recipe in enumerate(recipes))
    if not attentions or len(folders) < len(attentions) or duplicates:
        listed = ", ".join(attentions) or "no variants"
        raise ValueError(f"attention: give each variant once, with different folder names; got {listed}")


def _check(recipe: Recipe, runs: Sequence[_Run], options: RunOptions) -> None:
    """Fail early: raise the error any run would raise at its start, before the first one trains for hours."""
    for run_recipe, folder in runs:
        check_folder(run_recipe, folder, options.device)
    with PartialState().main_process_first():  # it may download
        train, test = task_of(recipe).load(options.data_root)
    for _, folder in runs:
        if (folder / "record.json").exists():
            check_data(Record.read(folder), train, test, folder)
    for run_recipe, _ in runs:
        if run_recipe.seed == recipe.seed:
            task_of(run_recipe).network(train)


def _folder(out: Path, attention: str, seed: int) -> Path:
    return out / f"{folder_name(attention)}-seed{seed}"


def _latency_and_pictures(recipe: Recipe, out: Path, runs: Mapping[str, Path], options: RunOptions) -> dict[str, Any]:
    """Latency and example pictures for one run of each variant."""
    records = {name: Record.read(folder) for name, folder in runs.items()}
    first = next(iter(records.values()))
    device, task = torch.device(first.environment["device"]), task_of(recipe)
    if not (task.illustrates and all((folder / WEIGHTS).exists() for folder in runs.values())):
        tasks = {name: task_of(Recipe.from_dict(record.recipe)) for name, record in records.items()}
        networks = {name: tasks[name].network(record, to_train=False) for name, record in records.items()}
        image = torch.randn(1, 3, *first.image_size, device=device)
        return {"latency_ms": _latency({name: net.to(device) for name, net in networks.items()}, image, first)}
    networks = {name: trained_model(folder)[0].to(device) for name, folder in runs.items()}
    _, test = task.load(options.data_root)
    pictures = task.illustrate(networks, test, out)
    (image, *_), _ = next(test.batches(1, device).test())
    return {"latency_ms": _latency(networks, image[None], first), "pictures": pictures}


def _latency(networks: Mapping[str, nn.Module], image: Tensor, record: Record) -> dict[str, float]:
    """Milliseconds per image for each network, in the precision they were trained in."""
    networks = {name: network.to(memory_format=torch.channels_last) for name, network in networks.items()}
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(record.environment["precision"])
    with torch.autocast(image.device.type, precision, enabled=precision is not None):
        return latency_ms(networks, image.to(memory_format=torch.channels_last))
