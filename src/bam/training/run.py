"""One training run, from a recipe to a folder with its record and weights."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from safetensors.torch import save
from torch import nn

from bam.costs import cost
from bam.data import Batches, load
from bam.files import write_atomically
from bam.models import build
from bam.recipes import Recipe
from bam.records import Record, environment
from bam.surgery import attach, attended
from bam.training.display import Display
from bam.training.loop import Progress, evaluate, train_epoch
from bam.training.optimization import optimizer
from bam.training.states import has_state, load_state, save_state

WEIGHTS = "model.safetensors"
STEPS = "steps.csv"


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and has saved its state; the message says how to go on."""


def build_model(recipe: Recipe, num_classes: int) -> nn.Module:
    """The recipe's network with its attention. The backbone's initial weights depend on the seed alone, not on it."""
    torch.manual_seed(recipe.seed)
    model = build(recipe.model, num_classes)
    if recipe.attention != "none":
        torch.manual_seed(recipe.seed + 1)
        image = recipe.data_options.get("canvas")
        attach(
            model,
            recipe.attention,
            sites=recipe.sites,
            image=image,
            identity=recipe.identity,
            **recipe.attention_options,
        )
    return model


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
        if record and record.complete:
            return record
        train, test = load(recipe.data, data_root, **recipe.data_options)
        session = _Session(recipe, out, accelerator, train, test, title or out.name)
        if resume:
            session.restore()
        return session.train(save_minutes * 60)


@contextlib.contextmanager
def _settings(recipe: Recipe, device: str | None) -> Iterator[tuple[Accelerator, Recipe]]:
    """The accelerator and the recipe with its precision resolved; torch's global switches are restored at the end."""
    AcceleratorState._reset_state(reset_partial_state=True)  # else a second run could not choose another precision
    found = PartialState(cpu=device == "cpu").device
    if device and device.split(":")[0] != found.type:
        raise ValueError(f"device {device!r} is not to be had here: Accelerate found {found.type!r}")
    if recipe.precision == "auto":
        recipe = recipe.replace(precision="bf16" if _fast_bf16(found) else "fp32")
    accelerator = Accelerator(
        mixed_precision=recipe.precision.replace("fp32", "no"),
        cpu=device == "cpu",
        gradient_accumulation_steps=recipe.accumulation,
    )
    switches: Any = torch.utils.deterministic
    before = (torch.are_deterministic_algorithms_enabled(), switches.fill_uninitialized_memory)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(recipe.deterministic)
    switches.fill_uninitialized_memory = False
    try:
        yield accelerator, recipe
    finally:
        torch.use_deterministic_algorithms(before[0])
        switches.fill_uninitialized_memory = before[1]


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def _earlier(recipe: Recipe, out: Path, resume: bool) -> Record | None:
    """The record that `out` holds, if it is this recipe's; else say why it cannot be used."""
    path = out / "recipe.yaml"
    if not path.exists():
        return None
    differences = recipe.differences(Recipe.from_yaml(path))
    if differences:
        listed = "; ".join(f"{key} is {there!r} there, not {asked!r}" for key, (asked, there) in differences.items())
        raise ValueError(f"{out} holds a run of another recipe ({listed}); choose another --out, or move it away")
    record = Record.read(out) if (out / "record.json").exists() else None
    if not resume and has_state(out) and not (record and record.complete):
        raise ValueError(f"{out} holds an unfinished run: add --resume to go on, or choose another --out")
    return record


class _Session:
    """The parts of one run and how they are saved together."""

    def __init__(self, recipe: Recipe, out: Path, accelerator: Accelerator, train: Any, test: Any, title: str) -> None:
        self.recipe, self.out, self.accelerator, self.title = recipe, out, accelerator, title
        model = build_model(recipe, len(train.classes))
        height, width = train.images.shape[1:3]
        self.record = Record(
            recipe.as_dict(),
            environment(str(accelerator.device), recipe.precision),
            cost=dataclasses.asdict(cost(model, (height, width))),
            sites=list(attended(model)),
            num_classes=len(train.classes),
            image_size=[height, width],
        )
        statistics = train.statistics()
        common = {
            "statistics": statistics,
            "device": accelerator.device,
            "shard": (accelerator.process_index, accelerator.num_processes),
        }
        parts = recipe.accumulation
        self.batches = Batches(
            train, recipe.batch_size // parts, crop_padding=recipe.crop_padding, flip=recipe.flip, **common
        )
        if self.batches.steps < parts:
            raise ValueError(f"batch_size {recipe.batch_size} is larger than the {len(train)} training images")
        self.test = Batches(test, max(recipe.batch_size, 256), **common)
        model = model.to(accelerator.device).to(memory_format=torch.channels_last)
        self.plain = model
        self.model, self.optimizer = accelerator.prepare(model, optimizer(model, recipe))
        if recipe.compile:
            self.model = torch.compile(self.model)
        self.progress = Progress(accelerator.device)
        self.unsaved: list[tuple[int, float, float]] = []  # rows of steps.csv since the last state
        self.main = accelerator.is_main_process

    def restore(self) -> None:
        """Load the newest state, if there is one."""
        state = load_state(self.out)
        if state is None:
            return
        self.plain.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.progress.load(state["progress"])
        self.record.history = json.loads(state["history"])
        if self.main:
            self._keep_steps_before(self.progress.step)

    def save(self) -> None:
        """Save the state of this moment, and the figures of the steps before it."""
        losses = self.progress.take_losses()
        if not self.main:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        with open(self.out / STEPS, "a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                writer.writerow(["step", "lr", "loss"])
            writer.writerows(losses)
        save_state(
            self.out,
            self.progress.step,
            {
                "model": self.plain.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {},
                "progress": self.progress.state(),
                "history": json.dumps(self.record.history),
            },
        )
        self.record.write(self.out)

    def train(self, save_seconds: float) -> Record:
        """Train to the end, saving on the way."""
        if self.main:
            write_atomically(self.out / "recipe.yaml", self.recipe.to_yaml())
        steps = self.batches.steps // self.recipe.accumulation * self.recipe.epochs
        saved_at = time.monotonic()
        with _stop_request() as stop, Display(self.title, steps, self.progress.step, self.main) as display:
            while self.progress.epoch < self.recipe.epochs:
                for _ in train_epoch(
                    self.recipe, self.model, self.optimizer, self.batches, self.accelerator, self.progress, display
                ):
                    if stop:
                        self.save()
                        where = f"step {self.progress.step} of {steps}"
                        raise Interrupted(f"stopped after {where}; the state is saved in {self.out}")
                    if time.monotonic() - saved_at > save_seconds:
                        self.save()
                        saved_at = time.monotonic()
                tested = evaluate(self.model, self.test, self.accelerator)
                self.record.history.append(self.progress.finish_epoch(self.accelerator) | tested)
                display.epoch(self.record.history[-1], self.recipe.epochs)
                self.save()
                saved_at = time.monotonic()
        self._finish()
        return self.record

    def _finish(self) -> None:
        last = self.record.history[-1]
        seconds = sum(row["seconds"] for row in self.record.history)
        rates = sorted(row["images_per_second"] for row in self.record.history)
        self.record.final = {
            "test_error": last["test_error"],
            "test_loss": last["test_loss"],
            "train_loss": last["train_loss"],
            "train_error": last["train_error"],
            "seconds": seconds,
            "images_per_second": rates[len(rates) // 2],
        }
        if self.main:
            weights = {name: value.contiguous() for name, value in self.plain.state_dict().items()}
            write_atomically(self.out / WEIGHTS, save(weights))
            self.record.write(self.out)

    def _keep_steps_before(self, step: int) -> None:
        path = self.out / STEPS
        if not path.exists():
            return
        with open(path, newline="") as file:
            rows = list(csv.reader(file))
        kept = io.StringIO()
        whole = [row for row in rows[1:] if len(row) == 3 and int(row[0]) < step]  # a kill may cut the last one short
        csv.writer(kept, lineterminator="\n").writerows(rows[:1] + whole)
        write_atomically(path, kept.getvalue())


@contextlib.contextmanager
def _stop_request() -> Iterator[list[int]]:
    """A list that fills when Ctrl-C or SIGTERM asks to stop; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are somebody else's
        before = {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
