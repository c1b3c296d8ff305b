"""One training run: from a recipe to a folder with record and weights."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list

from bam.private import accelerate_without_state
from bam.recipes import Recipe, RunOptions
from bam.records import Record
from bam.tasks import task_of
from bam.training import kernel
from bam.training.identity import check_data, check_sites
from bam.training.lock import locked
from bam.training.precision import fastest, resolved
from bam.training.session import Session
from bam.training.states import has_state
from bam.training.trackers import CSV, trackers_of, tracking, write_epochs

#: Data options that may change when a run resumes, because they do not affect the results so far: the number of
#: decoding processes, and whether an unreadable image ends the run.
READING = ("workers", "unreadable")
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  #: cuBLAS needs it to be deterministic


def run(
    recipe: Recipe, out: Path, options: RunOptions | None = None, *, resume: bool = False, title: str | None = None
) -> Record:
    """Train `recipe` into the folder `out`, and return the run's record; a complete run is not repeated.

    `out` then holds recipe.yaml (resolved), record.json, steps.csv (loss and learning rate of every step),
    model.safetensors, the last two training states, and what its task writes (`Task.results`). With `resume=True`, an
    interrupted run continues from its newest state and ends with bit-identical weights on the same machine.

    Args:
        recipe: what to train.
        out: the run's folder.
        options: data folder, device, how often to save.
        resume: continue from the newest state, or start from the beginning if there is none.
        title: the run's name on the screen.

    Raises:
        ValueError: if `out` is in use, or holds a run of another recipe, or an unfinished run and `resume` is False.
        Diverged: a ValueError, if a loss, a weight or a result is not finite.
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP, with the state saved.
    """
    options = options or RunOptions()
    trackers = trackers_of(options.log)
    recipe, step_ms = choose_precision(recipe, out, options)
    recipe, kernel_ms = choose_kernel(recipe, [recipe], out, options)
    with settings(recipe, options.device) as accelerator:
        record = _earlier(recipe, out, resume)
        accelerator.wait_for_everyone()  # every process reads the folder before one writes into it
        if record and record.complete:
            return record
        with locked(out, accelerator.is_main_process):
            record = _earlier(recipe, out, resume)  # another process may have finished it meanwhile
            if record and record.complete:
                return record
            session = _session(recipe, out, accelerator, options, record)
            session.title, kept = title or out.name, session.record
            kept.step_ms, kept.kernel_ms = step_ms or kept.step_ms, kernel_ms or kept.kernel_ms
            if resume:
                session.restore(allow_mixed=options.allow_mixed)
            with tracking(accelerator, trackers, out, recipe):
                record = session.train(options.save_minutes * 60)
            if CSV in trackers and accelerator.is_main_process:
                write_epochs(record.history, out)
            return record


def _session(
    recipe: Recipe, out: Path, accelerator: Accelerator, options: RunOptions, record: Record | None
) -> Session:
    """The session of a run; `record` is that of the run so far, if any."""
    if accelerator.is_main_process:
        for leftover in out.glob(".*.tmp"):  # from killed writers
            leftover.unlink(missing_ok=True)
    task = task_of(recipe)
    with accelerator.main_process_first():  # it may download
        train, test = task.load(options.data_root)
    if record is not None:
        check_data(record, train, test, out)
    session = Session(task, (train, test), out, accelerator)
    if record is not None:
        check_sites(record, session.record.sites, out)
        session.record.step_ms, session.record.kernel_ms = record.step_ms, record.kernel_ms
    return session


def choose_precision(recipe: Recipe, out: Path, options: RunOptions) -> tuple[Recipe, dict[str, float]]:
    """The recipe with its precision; for "auto", that of the run in `out`, or else the fastest here.

    Also returns the milliseconds of a training step in each precision that was timed.
    """
    with accelerate_afresh(options.device) as device:
        recipe = resolved(recipe, device, out)
        if recipe.precision != "auto":
            return recipe, {}
        with PartialState().main_process_first():  # it may download
            train, _ = task_of(recipe).load(options.data_root)
        precision, timings = fastest(recipe, train, device)
        (precision,) = broadcast_object_list([precision])  # all processes use the choice of the first
        return recipe.replace(precision=precision), timings


def choose_kernel(
    recipe: Recipe, variants: Sequence[Recipe], out: Path, options: RunOptions
) -> tuple[Recipe, dict[str, float]]:
    """The recipe with its kernel; for "auto", that of the run in `out`, or else the fastest here for all `variants`.

    Also returns the milliseconds of the BAM modules with each kernel that was timed.
    """
    recipe, variants = kernel.resolved(recipe, out), list(filter(kernel.is_open, variants))
    if recipe.kernel == "auto" and not variants:
        recipe = recipe.replace(kernel="torch")
    if recipe.kernel != "auto":
        return recipe, {}
    choice: Any = None
    with settings(recipe, options.device) as accelerator:
        if accelerator.is_main_process:
            try:
                train, _ = task_of(recipe).load(options.data_root)
                choice = kernel.fastest(variants, train, accelerator.device, accelerator.num_processes)
            except Exception as error:  # whatever it is, all processes raise it: the others wait for the choice
                choice = error
        (choice,) = broadcast_object_list([choice])
    if isinstance(choice, Exception):
        raise choice
    name, timings = choice
    return recipe.replace(kernel=name), timings


@contextlib.contextmanager
def settings(recipe: Recipe, device: str | None) -> Iterator[Accelerator]:
    """The accelerator for a recipe whose precision is resolved.

    On exit, torch's global switches, the environment and Accelerate's state are restored.
    """
    with accelerate_afresh(device) as actual:
        resolved(recipe, actual, Path())  # refuses what the device cannot do
        accelerator = Accelerator(
            mixed_precision=recipe.precision if recipe.precision in ("bf16", "fp16") else "no",
            cpu=device == "cpu",
            gradient_accumulation_steps=recipe.accumulation,
        )
        with _switched(recipe), warnings.catch_warnings():
            # DistributedDataParallel warns about 1 x 1 kernels, whose strides differ only where the size is 1.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield accelerator


@contextlib.contextmanager
def accelerate_afresh(device: str | None) -> Iterator[torch.device]:
    """Let Accelerate choose device and precision again, which it does once per process; restore its state on exit.

    Raises:
        ValueError: if the requested kind of device is not available.
    """
    with accelerate_without_state():
        actual = PartialState(cpu=device == "cpu").device
        if device and (device.split(":")[0] != actual.type or device.startswith("cpu:")):
            raise ValueError(f"device {device!r} is not available here: Accelerate found {actual.type!r}")
        yield actual


@contextlib.contextmanager
def _switched(recipe: Recipe) -> Iterator[None]:
    """Set torch's global switches as the recipe requires; restore them on exit."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    switches: list[tuple[Any, str, bool]] = [
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
        (torch.backends.cudnn, "benchmark", not recipe.deterministic),
    ]
    if recipe.precision in ("fp32", "tf32"):
        products = (torch.backends.cudnn, torch.backends.cuda.matmul)
        switches += [(product, "allow_tf32", recipe.precision == "tf32") for product in products]
    before = [getattr(module, name) for module, name, _ in switches]
    workspace = os.environ.get(_WORKSPACE)
    try:
        os.environ.setdefault(_WORKSPACE, ":4096:8")
        torch.use_deterministic_algorithms(recipe.deterministic)
        for module, name, value in switches:
            setattr(module, name, value)
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        for (module, name, _), value in zip(switches, before, strict=True):
            setattr(module, name, value)
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)


def check_folder(recipe: Recipe, out: Path, device: str | None = None) -> None:
    """Raise ValueError if `out` holds a run that is not of `recipe`."""
    with accelerate_afresh(device) as actual:
        _earlier(resolved(recipe, actual, out), out, resume=True)


def _earlier(recipe: Recipe, out: Path, resume: bool) -> Record | None:
    """The record in `out`, if any; raises ValueError if this recipe cannot use the folder."""
    path = out / "recipe.yaml"
    if not path.exists():
        if has_state(out):
            raise ValueError(f"{out} holds training states but no recipe.yaml for them; move it away")
        return None
    differences = _without_reading(recipe).differences(_without_reading(Recipe.from_yaml(path)))
    if differences:
        listed = "; ".join(f"{key} is {there!r} there, not {here!r}" for key, (here, there) in differences.items())
        raise ValueError(f"{out} holds a run of another recipe ({listed}); choose another --out, or move it away")
    record = Record.read(out) if (out / "record.json").exists() else None
    if not resume and has_state(out) and not (record and record.complete):
        raise ValueError(f"{out} holds an unfinished run: add --resume to continue it, or choose another --out")
    return record


def _without_reading(recipe: Recipe) -> Recipe:
    """The recipe without what may change when a run resumes."""
    data_options = {key: value for key, value in recipe.data_options.items() if key not in READING}
    return recipe.replace(data_options=data_options, kernel="auto")
