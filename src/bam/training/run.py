"""One training run, from a recipe to a folder with its record and weights."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState

from bam.private import cpu_has_bf16, reset_accelerate
from bam.recipes import Recipe
from bam.records import Record
from bam.tasks.task import task_of
from bam.training.session import Session, check_data
from bam.training.states import has_state

#: Options of a folder that change nothing of what a run has computed so far: who decodes, and whether an image that
#: cannot be read ends it.
READING = ("workers", "unreadable")


def run(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    data_root: str | Path | None = None,
    device: str | None = None,
    save_minutes: float = 2.0,
    title: str | None = None,
) -> Record:
    """Train `recipe` into the folder `out`; a run that is complete there already is returned as it is.

    `out` then holds recipe.yaml (resolved), record.json, steps.csv (loss and learning rate of every step),
    model.safetensors and the last two training states. An interrupted run goes on from its newest state with
    `resume=True` and ends in the same weights, bit for bit, as if nothing had happened (same machine).

    Args:
        recipe: what to train.
        out: the run's folder.
        resume: go on from the newest state; start from the beginning if there is none.
        data_root: folder of the data; default: BAM_DATA, or "data".
        device: kind of device, "cpu" or "cuda"; default: a GPU if there is one. Which GPUs: CUDA_VISIBLE_DEVICES.
        save_minutes: how often to save the training state, besides after every epoch.
        title: how the run is called on the screen.

    Raises:
        ValueError: if `out` holds a run of another recipe, or an unfinished one and `resume` is False.
        Interrupted: after Ctrl-C or SIGTERM, with the state saved.
    """
    with _settings(recipe, device) as (accelerator, recipe):
        record = _earlier(recipe, out, resume)
        accelerator.wait_for_everyone()  # all processes have seen the same folder before one writes into it
        if record and record.complete:
            return record
        task = task_of(recipe)
        with accelerator.main_process_first():  # it may download
            train, test = task.load(recipe, data_root)
        if record is not None:
            check_data(record, train, test, out)
        session = Session(recipe, out, accelerator, task, train, test, title or out.name)
        if resume:
            session.restore()
        return session.train(save_minutes * 60)


@contextlib.contextmanager
def _settings(recipe: Recipe, device: str | None) -> Iterator[tuple[Accelerator, Recipe]]:
    """The accelerator and the recipe with its precision resolved; torch's global switches are restored at the end."""
    recipe = _resolved(recipe, device)
    accelerator = Accelerator(
        mixed_precision=recipe.precision if recipe.precision in ("bf16", "fp16") else "no",
        cpu=device == "cpu",
        gradient_accumulation_steps=recipe.accumulation,
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(recipe.deterministic)
    switches: list[tuple[Any, str, bool]] = [
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
        (torch.backends.cudnn, "benchmark", not recipe.deterministic),
    ]
    if recipe.precision in ("fp32", "tf32"):
        products = (torch.backends.cudnn, torch.backends.cuda.matmul)
        switches += [(product, "allow_tf32", recipe.precision == "tf32") for product in products]
    before = [getattr(room, name) for room, name, _ in switches]
    for room, name, value in switches:
        setattr(room, name, value)
    try:
        yield accelerator, recipe
    finally:
        torch.use_deterministic_algorithms(deterministic)
        for (room, name, _), value in zip(switches, before, strict=True):
            setattr(room, name, value)


def check_folder(recipe: Recipe, out: Path, device: str | None = None) -> None:
    """Raise ValueError if `out` holds anything but a run of `recipe`."""
    _earlier(_resolved(recipe, device), out, resume=True)


def _resolved(recipe: Recipe, device: str | None) -> Recipe:
    """`recipe` with the precision that suits the device, which must be there."""
    reset_accelerate()  # else a second run could not choose another precision
    found = PartialState(cpu=device == "cpu").device
    if device and device.split(":")[0] != found.type:
        raise ValueError(f"device {device!r} is not to be had here: Accelerate found {found.type!r}")
    if recipe.precision == "tf32" and found.type != "cuda":
        raise ValueError(f"precision tf32 is one of NVIDIA GPUs, and this is {found.type!r}: choose fp32 or bf16")
    if recipe.precision != "auto":
        return recipe
    return recipe.replace(precision="bf16" if _fast_bf16(found) else "fp32")


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_has_bf16()


def _earlier(recipe: Recipe, out: Path, resume: bool) -> Record | None:
    """The record that `out` holds, if it is this recipe's; else say why it cannot be used."""
    path = out / "recipe.yaml"
    if not path.exists():
        if has_state(out):
            raise ValueError(f"{out} holds training states but no recipe.yaml to say whose; move it away")
        return None
    differences = _without_reading(recipe).differences(_without_reading(Recipe.from_yaml(path)))
    if differences:
        listed = "; ".join(f"{key} is {there!r} there, not {asked!r}" for key, (asked, there) in differences.items())
        raise ValueError(f"{out} holds a run of another recipe ({listed}); choose another --out, or move it away")
    record = Record.read(out) if (out / "record.json").exists() else None
    if not resume and has_state(out) and not (record and record.complete):
        raise ValueError(f"{out} holds an unfinished run: add --resume to go on, or choose another --out")
    return record


def _without_reading(recipe: Recipe) -> Recipe:
    return recipe.replace(
        data_options={key: recipe.data_options[key] for key in recipe.data_options if key not in READING}
    )
