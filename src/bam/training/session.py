"""The parts of one run, and how they are saved, restored and finished together."""

import contextlib
import dataclasses
import json
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import Tensor

from bam.costs import cost
from bam.data import BatchSource, LabelledImages
from bam.files import append, write_atomically
from bam.recipes import Recipe
from bam.records import Record, environment
from bam.surgery import attended
from bam.training.display import Display
from bam.training.loop import Progress, evaluate, train_epoch
from bam.training.network import build_model, statistics
from bam.training.optimization import optimizer
from bam.training.states import load_state, save_state, set_aside_after

WEIGHTS = "model.safetensors"
STEPS = "steps.csv"
_SMALL = 64  #: side of images that are evaluated in larger batches than they are trained in, in pixels


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and has saved its state; the message says how to go on."""


class Session:
    """One run: network, data, optimiser, progress and record."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        accelerator: Accelerator,
        train: LabelledImages,
        test: LabelledImages,
        title: str,
    ) -> None:
        self.recipe, self.out, self.accelerator, self.title = recipe, out, accelerator, title
        with accelerator.main_process_first():  # it may download pretrained weights
            model = build_model(recipe, len(train.classes), train.image_size)
        normalized_by = statistics(recipe, train)
        self.train_batches, self.test_batches = self._batches(train, test, normalized_by)
        mean, std = ([round(float(value) / 255, 6) for value in values] for values in normalized_by)
        self.record = Record(
            recipe.as_dict(),
            environment(str(accelerator.device), recipe.precision),
            cost=dataclasses.asdict(cost(model, train.image_size)),
            sites=list(attended(model)),
            num_classes=len(train.classes),
            classes=list(train.classes),
            image_size=list(train.image_size),
            normalization={"mean": mean, "std": std},
            data=fingerprint(train, test),
        )
        self.plain = model.to(accelerator.device).to(memory_format=torch.channels_last)
        self.model, self.optimizer = accelerator.prepare(self.plain, optimizer(self.plain, recipe))
        if recipe.compile:
            torch._dynamo.reset()  # its limit on compilations is one for all runs of a process
            self.model = torch.compile(self.model, mode=recipe.compile_mode)
        self.progress = Progress(accelerator.device)
        self.main = accelerator.is_main_process

    def _batches(
        self, train: LabelledImages, test: LabelledImages, normalized_by: tuple[Tensor, Tensor]
    ) -> tuple[BatchSource, BatchSource]:
        recipe, processes = self.recipe, self.accelerator.num_processes
        if len(test) < processes:
            raise ValueError(f"{len(test)} test images are too few for {processes} processes to evaluate on")
        if recipe.batch_size > len(train):
            raise ValueError(f"batch_size {recipe.batch_size} is larger than the {len(train)} training images")
        part = recipe.batch_size // recipe.accumulation
        if part % processes:
            raise ValueError(f"batch_size {part} (after accumulation) is no multiple of the {processes} processes")
        device, shard = self.accelerator.device, (self.accelerator.process_index, processes)
        tested = part if max(test.image_size) > _SMALL else max(part, 256)
        return (
            train.batches(part, normalized_by, device, crop_padding=recipe.crop_padding, flip=recipe.flip, shard=shard),
            test.batches(tested, normalized_by, device, shard=shard),
        )

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

    def save(self) -> None:
        """Save the state of this moment, and the figures of the steps before it."""
        losses = self.progress.take_losses()
        if not self.main:
            return
        append(self.out / STEPS, "".join(f"{step},{lr},{loss}\n" for step, lr, loss in losses))
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
        self.progress.start_clock()

    def train(self, save_seconds: float) -> Record:
        """Train to the end, saving on the way."""
        self.accelerator.wait_for_everyone()  # all have read what there is
        if self.main:
            write_atomically(self.out / "recipe.yaml", self.recipe.to_yaml())
            set_aside_after(self.out, self.progress.step)
            self._keep_steps_before(self.progress.step)
        steps = self.train_batches.steps // self.recipe.accumulation * self.recipe.epochs
        saved_at = time.monotonic()
        with _stop_request() as stop, Display(self.title, steps, self.progress.step, self.main) as display:
            while self.progress.epoch < self.recipe.epochs:
                with contextlib.closing(self._epoch(display)) as epoch:
                    for _ in epoch:
                        if self._all_stop(stop):
                            self.save()
                            where = f"step {self.progress.step} of {steps}"
                            raise Interrupted(f"stopped after {where}; the state is saved in {self.out}")
                        if time.monotonic() - saved_at > save_seconds:
                            self.save()
                            saved_at = time.monotonic()
                self._finish_epoch(display)
                self.save()
                saved_at = time.monotonic()
        self._finish()
        if stop:  # too late for this run, but not for those that a comparison would start next
            raise Interrupted(f"stopped; {self.out} is complete")
        return self.record

    def _epoch(self, display: Display) -> Generator[None, None, None]:
        parts = (self.recipe, self.model, self.optimizer, self.train_batches, self.accelerator, self.progress)
        return train_epoch(*parts, display)

    def _finish_epoch(self, display: Display) -> None:
        """Evaluate, and enter and tell what came of the epoch."""
        row = self.progress.finish_epoch(self.accelerator)
        row |= evaluate(self.model, self.test_batches, self.accelerator)
        self.progress.unreadable.add(self.test_batches.take_unreadable())
        left_out = self.progress.take_unreadable()
        if left_out.count:
            row["unreadable"] = left_out.count
        self.record.history.append(row)
        self.progress.start_clock()
        display.epoch(row, self.recipe.epochs)
        if left_out.count:
            display.say(f"unreadable images left out in this epoch: {left_out.count}, e.g. {left_out.example}")

    def _all_stop(self, stop: list[int]) -> bool:
        """Whether to stop now; several processes must agree on the step, and ask each other every 20 steps."""
        if self.accelerator.num_processes == 1:
            return bool(stop)
        if self.progress.step % 20:
            return False
        if stop:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def _finish(self) -> None:
        last = self.record.history[-1]
        seconds = sum(row["seconds"] for row in self.record.history)
        rates = sorted(row["images_per_second"] for row in self.record.history)
        kept = ("test_error", "test_error_top5", "test_loss", "train_loss", "train_error")
        self.record.final = {name: last[name] for name in kept if name in last}
        self.record.final |= {"seconds": seconds, "images_per_second": rates[len(rates) // 2]}
        if self.main:
            weights = {name: value.contiguous() for name, value in self.plain.state_dict().items()}
            write_atomically(self.out / WEIGHTS, save(weights))
            self.record.write(self.out)
        self.accelerator.wait_for_everyone()

    def _keep_steps_before(self, step: int) -> None:
        """Begin steps.csv, or cut from it what came after the state that the run goes on from."""
        path = self.out / STEPS
        rows = [line.split(",") for line in path.read_text(errors="replace").splitlines()[1:]] if path.exists() else []
        # The last row may have been cut short by a kill, or damaged by a power failure.
        kept = [row for row in rows if len(row) == 3 and row[0].isdigit() and int(row[0]) < step]
        write_atomically(path, "".join(",".join(row) + "\n" for row in [["step", "lr", "loss"], *kept]))


def fingerprint(train: LabelledImages, test: LabelledImages) -> str:
    """Of all images of a run."""
    return f"{train.fingerprint} {test.fingerprint}"


def check_data(record: Record, train: LabelledImages, test: LabelledImages, out: Path) -> None:
    """Raise ValueError if the run in `out` had other images than these."""
    if record.data and record.data != fingerprint(train, test):
        raise ValueError(
            f"{out} holds a run on other images: files were added, removed or renamed, or the classes have changed; "
            "bring them back, or choose another --out"
        )


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
