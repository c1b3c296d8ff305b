"""One training run, from a recipe to a folder with its record and weights."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState

from bam.private import accelerate_without_state, cpu_has_bf16
from bam.recipes import Recipe, RunOptions
from bam.records import Record
from bam.tasks import task_of
from bam.training.session import Session, check_data
from bam.training.states import has_state

#: Options of a folder that change nothing of what a run has computed so far: who decodes, and whether an image that
#: cannot be read ends it.
READING = ("workers", "unreadable")
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  #: without which cuBLAS is not deterministic


def run(
    recipe: Recipe, out: Path, options: RunOptions | None = None, *, resume: bool = False, title: str | None = None
) -> Record:
    """Train `recipe` into the folder `out`; a run that is complete there already is returned as it is.

    `out` then holds recipe.yaml (resolved), record.json, steps.csv (loss and learning rate of every step),
    model.safetensors and the last two training states. An interrupted run goes on from its newest state with
    `resume=True` and ends in the same weights, bit for bit, as if nothing had happened (same machine).

    Args:
        recipe: what to train.
        out: the run's folder.
        options: where data and device are, and how often to save.
        resume: go on from the newest state; start from the beginning if there is none.
        title: the name of the run on the screen.

    Raises:
        ValueError: if `out` holds a run of another recipe, or an unfinished one and `resume` is False.
        Interrupted: after Ctrl-C or SIGTERM, with the state saved.
    """
    options = options or RunOptions()
    with settings(recipe, options.device) as (accelerator, recipe):
        record = _earlier(recipe, out, resume)
        accelerator.wait_for_everyone()  # all processes have seen the same folder before one writes into it
        if record and record.complete:
            return record
        task = task_of(recipe)
        with accelerator.main_process_first():  # it may download
            train, test = task.load(options.data_root)
        if record is not None:
            check_data(record, train, test, out)
        session = Session(task, (train, test), out, accelerator, title or out.name)
        if resume:
            session.restore()
        return session.train(options.save_minutes * 60)


@contextlib.contextmanager
def settings(recipe: Recipe, device: str | None) -> Iterator[tuple[Accelerator, Recipe]]:
    """The accelerator, and the recipe with its precision resolved.

    Afterwards torch's global switches, the environment and Accelerate's state are as they were before.
    """
    with accelerate_afresh(device) as found:
        recipe = _resolved(recipe, found)
        accelerator = Accelerator(
            mixed_precision=recipe.precision if recipe.precision in ("bf16", "fp16") else "no",
            cpu=device == "cpu",
            gradient_accumulation_steps=recipe.accumulation,
        )
        with _switched(recipe):
            yield accelerator, recipe


@contextlib.contextmanager
def accelerate_afresh(device: str | None) -> Iterator[torch.device]:
    """Let Accelerate choose device and precision anew, which it does once per process; then give its state back.

    Raises:
        ValueError: if it does not find the kind of device that was asked for.
    """
    with accelerate_without_state():
        found = PartialState(cpu=device == "cpu").device
        if device and device.split(":")[0] != found.type:
            raise ValueError(f"device {device!r} is not available here: Accelerate found {found.type!r}")
        yield found


@contextlib.contextmanager
def _switched(recipe: Recipe) -> Iterator[None]:
    """torch's global switches as the recipe wants them."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    switches: list[tuple[Any, str, bool]] = [
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
        (torch.backends.cudnn, "benchmark", not recipe.deterministic),
    ]
    if recipe.precision in ("fp32", "tf32"):
        products = (torch.backends.cudnn, torch.backends.cuda.matmul)
        switches += [(product, "allow_tf32", recipe.precision == "tf32") for product in products]
    before = [getattr(place, name) for place, name, _ in switches]
    workspace = os.environ.get(_WORKSPACE)
    try:
        os.environ.setdefault(_WORKSPACE, ":4096:8")
        torch.use_deterministic_algorithms(recipe.deterministic)
        for place, name, value in switches:
            setattr(place, name, value)
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        for (place, name, _), value in zip(switches, before, strict=True):
            setattr(place, name, value)
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)


def check_folder(recipe: Recipe, out: Path, device: str | None = None) -> None:
    """Raise ValueError if `out` holds anything but a run of `recipe`."""
    with accelerate_afresh(device) as found:
        _earlier(_resolved(recipe, found), out, resume=True)


def _resolved(recipe: Recipe, device: torch.device) -> Recipe:
    """`recipe` with the precision that suits the device."""
    if recipe.precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision tf32 is one of NVIDIA GPUs, and this is {device.type!r}: choose fp32 or bf16")
    if recipe.precision != "auto":
        return recipe
    return recipe.replace(precision="bf16" if _has_fast_bf16(device) else "fp32")


def _has_fast_bf16(device: torch.device) -> bool:
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
        listed = "; ".join(f"{key} is {held!r} there, not {asked!r}" for key, (asked, held) in differences.items())
        raise ValueError(f"{out} holds a run of another recipe ({listed}); choose another --out, or move it away")
    record = Record.read(out) if (out / "record.json").exists() else None
    if not resume and has_state(out) and not (record and record.complete):
        raise ValueError(f"{out} holds an unfinished run: add --resume to go on, or choose another --out")
    return record


def _without_reading(recipe: Recipe) -> Recipe:
    return recipe.replace(
        data_options={key: recipe.data_options[key] for key in recipe.data_options if key not in READING}
    )
