"""Paired comparison: the same network with and without attention, seed by seed."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from torch import Tensor, nn

from bam.costs import latency_ms
from bam.files import check_types, read_json, strict_json, write_atomically
from bam.recipes import Recipe, RunOptions, folder_name, variant
from bam.records import FILE_NAME, ClassResult, Record, read_classes
from bam.surgery import attended
from bam.tasks import task_of
from bam.training.identity import check_data, check_sites
from bam.training.lock import locked
from bam.training.looks import write_looks
from bam.training.run import accelerate_afresh, check_folder, choose_kernel, choose_precision, run, settings
from bam.training.session import WEIGHTS
from bam.training.side_by_side import Job, check_jobs, side_by_side
from bam.training.stopping import Diverged
from bam.training.trackers import log_pictures, trackers_of
from bam.training.trained import recipe_of, trained_model

PLAN = "comparison.json"
_PLAN_TYPES = {
    "attention": list[str],
    "seeds": list[int],
    "latency_ms": dict[str, float],
    "recipe": dict[str, Any],
    "pictures": list[dict[str, Any]],
    "probe": dict[str, float] | None,
    "step_ms": dict[str, float],
    "kernel_ms": dict[str, float],
}
_OPTIONAL = {"recipe", "pictures", "probe", "step_ms", "kernel_ms"}  #: missing in old plans
PICTURES = "pictures"  #: folder for the output of `Task.illustrate`


def compare(
    recipe: Recipe,
    attentions: Sequence[str],
    seeds: int | range,
    out: Path,
    options: RunOptions | None = None,
    jobs: int = 1,
) -> None:
    """Train `recipe` with each of `attentions` for several seeds; results go to the folder `out`.

    Attentions are variants for `bam.recipes.variant`: "none", "bam", "bam(reduction=8)". Runs are paired: for the same
    seed, all variants start from the same backbone weights and see the same images in the same order. Complete runs are
    skipped and unfinished ones continue, so repeating the call resumes the comparison. Seeds are the outer loop: an
    early stop leaves whole pairs. All runs share one precision and kernel. Latency is measured at the end.

    Args:
        recipe: what to train.
        attentions: the variants; the first is the baseline.
        seeds: number of seeds, starting at the recipe's; or a range, which is added to the seeds in `out`.
        out: folder of the comparison.
        options: data folder, device, how often to save.
        jobs: how many runs train side by side, each in a process of its own, which split the CPU threads and take turns
            over the GPUs. A script that uses it needs `if __name__ == "__main__":`.

    Raises:
        ValueError: for fewer than one seed or job, or a duplicate attention; also the errors of `run`, except Diverged:
            the other runs go on, and the report names the failed one.
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP, with the state saved.
    """
    options = options or RunOptions()
    check_jobs(jobs)
    old_plan = read_comparison(out)[1] if (out / PLAN).exists() else {}
    numbers = planned_seeds(recipe, seeds, out)
    _check_variants(recipe, attentions)
    source = _settings_of(recipe, out, attentions)
    recipe, step_ms = choose_precision(recipe, source, options)
    recipe, kernel_ms = choose_kernel(recipe, [variant(recipe, text) for text in attentions], source, options)
    runs = _runs(recipe, attentions, numbers, out)
    with accelerate_afresh(options.device):
        probe = _check(recipe, runs, options, old_plan.get("probe"))
        is_main = PartialState().is_main_process
    plan = {"latency_ms": {}, "pictures": [], "step_ms": {}, "kernel_ms": {}} | old_plan
    plan |= {name: timings for name, timings in (("step_ms", step_ms), ("kernel_ms", kernel_ms)) if timings}
    plan |= {"recipe": recipe.as_dict(), "attention": list(attentions), "seeds": numbers, "probe": probe}
    with locked(out, is_main):
        write_atomically(out / PLAN, strict_json(plan))
        write_atomically(out / "recipe.yaml", recipe.to_yaml())
        side_by_side(_jobs(runs, options), jobs)
        _conclude(recipe, out, plan, options)


def _conclude(recipe: Recipe, out: Path, plan: dict[str, Any], options: RunOptions) -> None:
    """Add latency, pictures and a look at the attention, once all runs are complete."""
    folders = {text: _folder(out, text, plan["seeds"][0]) for text in plan["attention"]}
    with accelerate_afresh(options.device):
        if PartialState().is_main_process:
            plan |= _latency_and_pictures(recipe, out / PICTURES, folders, options)
            write_atomically(out / PLAN, strict_json(plan))
            write_looks(out, folders, options)
    if options.log:
        with settings(recipe, options.device) as accelerator:
            log_pictures(accelerator, trackers_of(options.log), out, recipe)


class _Run(NamedTuple):
    recipe: Recipe
    folder: Path


def _runs(recipe: Recipe, attentions: Sequence[str], seeds: Sequence[int], out: Path) -> list[_Run]:
    pairs = [(seed, text) for seed in seeds for text in attentions]
    return [_Run(variant(recipe, text).replace(seed=seed), _folder(out, text, seed)) for seed, text in pairs]


def _jobs(runs: Sequence[_Run], options: RunOptions) -> list[Job]:
    """The runs that are not complete."""
    jobs = []
    for number, planned in enumerate(runs, start=1):
        title = f"[{number}/{len(runs)}] {planned.folder.name}"
        if not ((planned.folder / FILE_NAME).exists() and Record.read(planned.folder).complete):
            jobs.append(Job(title, partial(_run_unless_failed, planned, options, title)))
    return jobs


def _run_unless_failed(planned: _Run, options: RunOptions, title: str) -> None:
    """Train one run of a comparison; a run that diverges, or has diverged before, does not stop the comparison."""
    failure = (planned.folder / FILE_NAME).exists() and Record.read(planned.folder).failure
    try:
        if not failure:
            run(planned.recipe, planned.folder, options, resume=True, title=title)
            return
        message = f"{planned.folder}: {failure['reason']}; remove the folder to train it again"
    except Diverged as error:
        message = str(error)
    print(f"{title}  failed: {message}", file=sys.stderr)


def read_comparison(out: Path) -> tuple[dict[str, list[Record]], dict[str, Any]]:
    """Read the comparison in `out`; returns (variant -> its records so far, the plan).

    The plan has "latency_ms" (variant -> milliseconds), "recipe" (before the variants change it; missing in old files),
    "pictures" (of a complete comparison of detectors), and "probe" (measure -> result of a simple model).

    Raises:
        FileNotFoundError: if `out` holds no comparison.
        ValueError: if its plan is damaged.
    """
    path = out / PLAN
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: {out} holds no comparison; run bam compare first")
    advice = "delete it, and bam compare writes it again"
    plan = read_json(path, advice)
    for missing in _PLAN_TYPES.keys() - _OPTIONAL - plan.keys():
        raise ValueError(f"{path} is damaged (it lacks {missing}); {advice}")
    check_types(plan, _PLAN_TYPES, path)
    if not plan["attention"] or not plan["seeds"]:
        raise ValueError(f"{path} is damaged (it names no variants, or no seeds); {advice}")
    records: dict[str, list[Record]] = {}
    for attention in plan["attention"]:
        folders = (_folder(out, attention, seed) for seed in plan["seeds"])
        records[attention] = [Record.read(folder) for folder in folders if (folder / "record.json").exists()]
    return records, plan


def class_results(out: Path, plan: Mapping[str, Any]) -> dict[str, dict[int, list[ClassResult]]]:
    """Variant -> seed -> results of each class in the comparison in `out`; empty lists if there are none."""
    return {
        attention: {seed: read_classes(_folder(out, attention, seed)) for seed in plan["seeds"]}
        for attention in plan["attention"]
    }


def earlier_comparisons(recipe: Recipe, out: Path) -> list[dict[str, list[Record]]]:
    """The records of comparisons of the same recipe, with any seeds, in `out` and in the folders beside it."""
    comparisons: list[dict[str, list[Record]]] = []
    for path in dict.fromkeys([out / PLAN, *sorted(out.parent.glob(f"*/{PLAN}"))]):
        try:
            records, plan = read_comparison(path.parent)
            other = Recipe.from_dict(plan["recipe"])
        except (KeyError, TypeError, OSError, ValueError):  # damaged, or from a version that wrote no recipe
            continue
        ignored = {name: getattr(recipe, name) for name in ("seed", "precision", "kernel", "attention")}
        if not recipe.differences(other.replace(**ignored)):
            comparisons.append(records)
    return comparisons


def planned_seeds(recipe: Recipe, seeds: int | range, out: Path) -> list[int]:
    """The seeds of a comparison in `out`: `seeds` of them from the recipe's on, or a range and those already in `out`.

    Raises:
        ValueError: if there would be none, or for a negative one.
    """
    if isinstance(seeds, range):
        if not seeds or seeds[0] < 0:
            raise ValueError(f"seeds: {seeds.start}:{seeds.stop} is empty, or has negative seeds")
        existing = read_comparison(out)[1]["seeds"] if (out / PLAN).exists() else []
        return sorted({*existing, *seeds})
    if seeds < 1:
        raise ValueError(f"seeds: at least 1, got {seeds}")
    return list(range(recipe.seed, recipe.seed + seeds))


def _settings_of(recipe: Recipe, out: Path, attentions: Sequence[str]) -> Path:
    """The folder whose recipe says which precision and kernel all runs share; in old comparisons, the first run's."""
    chosen = (out / "recipe.yaml").exists() and Recipe.from_yaml(out / "recipe.yaml").precision != "auto"
    return out if chosen else _folder(out, attentions[0], recipe.seed)


def _check_variants(recipe: Recipe, attentions: Sequence[str]) -> None:
    folders = {folder_name(text) for text in attentions}
    recipes = [variant(recipe, text) for text in attentions]
    duplicates = any(recipe in recipes[:k] for k, recipe in enumerate(recipes))
    if not attentions or len(folders) < len(attentions) or duplicates:
        listed = ", ".join(attentions) or "no variants"
        raise ValueError(f"attention: give each variant once, with different folder names; got {listed}")


def _check(
    recipe: Recipe, runs: Sequence[_Run], options: RunOptions, probe: dict[str, float] | None
) -> dict[str, float] | None:
    """Fail early: raise the error any run would raise at its start, before the first one trains for hours.

    Returns the result of a simple model on the task (see `Task.probe`): `probe` itself, if it is already known.
    """
    trackers_of(options.log)
    for run_recipe, folder in runs:
        check_folder(run_recipe, folder, options.device)
    with PartialState().main_process_first():  # it may download
        train, test = task_of(recipe).load(options.data_root)
    sites: dict[str, list[str]] = {}  # of each variant
    for run_recipe, _ in runs:
        if run_recipe.seed == runs[0].recipe.seed:
            sites[_without_seed(run_recipe)] = list(attended(task_of(run_recipe).network(train)))
    for run_recipe, folder in runs:
        if (folder / FILE_NAME).exists():
            record = Record.read(folder)
            check_data(record, train, test, folder)
            check_sites(record, sites[_without_seed(run_recipe)], folder)
    if probe is None and PartialState().is_main_process:
        return task_of(recipe).probe(train, test)
    return probe


def _without_seed(recipe: Recipe) -> str:
    return str(recipe.replace(seed=0).as_dict())


def _folder(out: Path, attention: str, seed: int) -> Path:
    return out / f"{folder_name(attention)}-seed{seed}"


def _latency_and_pictures(recipe: Recipe, out: Path, runs: Mapping[str, Path], options: RunOptions) -> dict[str, Any]:
    """Latency and example pictures for one run of each variant."""
    records = {name: Record.read(folder) for name, folder in runs.items()}
    baseline = next(iter(records.values()))
    device, task = torch.device(baseline.environment["device"]), task_of(recipe)
    if not (task.illustrates and all((folder / WEIGHTS).exists() for folder in runs.values())):
        tasks = {name: task_of(recipe_of(record, runs[name])) for name, record in records.items()}
        networks = {name: tasks[name].network(record, to_train=False) for name, record in records.items()}
        image = torch.randn(1, 3, *baseline.image_size, device=device)
        return {"latency_ms": _latency({name: net.to(device) for name, net in networks.items()}, image, baseline)}
    networks = {name: trained_model(folder)[0].to(device) for name, folder in runs.items()}
    _, test = task.load(options.data_root)
    pictures = task.illustrate(networks, test, out)
    (image, *_), _ = next(test.batches(1, device).test())
    return {"latency_ms": _latency(networks, image[None], baseline), "pictures": pictures}


def _latency(networks: Mapping[str, nn.Module], image: Tensor, record: Record) -> dict[str, float]:
    """Milliseconds per image for each network, in the precision they were trained in."""
    networks = {name: network.to(memory_format=torch.channels_last) for name, network in networks.items()}
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(record.environment["precision"])
    with torch.autocast(image.device.type, precision, enabled=precision is not None):
        return latency_ms(networks, image.to(memory_format=torch.channels_last))
