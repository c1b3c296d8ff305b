"""The parts of one run: saved, restored and finished together."""

import contextlib
import dataclasses
import json
import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import Tensor, nn

from bam.data import BatchSource
from bam.data.interface import Images
from bam.files import check_types, strict_json, write_atomically
from bam.records import Record, environment
from bam.surgery import attended
from bam.tasks import Evaluation, Task
from bam.training import kernel
from bam.training.batches import evaluation_batches, training_batches
from bam.training.best import HELD_OUT, Best, renamed
from bam.training.display import Display
from bam.training.identity import check_state, fingerprint, stretches_of
from bam.training.loop import Progress, Trainer
from bam.training.optimization import load_optimizer, moving_average, optimizer
from bam.training.states import load_state, newest_step, save_state, set_aside_after
from bam.training.steps import append_steps, keep_steps_before
from bam.training.stopping import Diverged, Interrupted, stop_request

WEIGHTS = "model.safetensors"
_LOOK = 50  #: steps between checks that the losses are finite, which wait for the device
_SHOWN = 3  #: measures shown per epoch


class Session:
    """One run: network, data, optimiser, progress and record."""

    def __init__(self, task: Task, data: tuple[Images, Images], out: Path, accelerator: Accelerator) -> None:
        self.task, self.recipe, self.out, self.title = task, task.recipe, out, out.name
        self.accelerator, self.main = accelerator, accelerator.is_main_process
        (train, held_out), self.test = task.hold_out(data[0]), data[1]
        with accelerator.main_process_first():  # it may download pretrained weights
            network = task.network(train)
        kernel.use(self.recipe, network)
        normalization = task.normalization(network, train)
        self.notes = list(dict.fromkeys([*task.notes(train), *self.test.notes]))
        self.train_batches = training_batches(task, train, normalization, accelerator)
        self.test_batches = evaluation_batches(task, self.test, normalization, accelerator)
        self.held_out = None
        if held_out is not None:
            self.held_out = evaluation_batches(task, held_out, normalization, accelerator), held_out
        self.best = Best()
        mean, std = ([float(f"{value / 255:.7g}") for value in values.tolist()] for values in normalization)
        self.record = Record(
            self.recipe.as_dict(),
            environment(
                str(accelerator.device), self.recipe.precision, kernel.of(self.recipe), accelerator.num_processes
            ),
            cost=dataclasses.asdict(task.cost(network, train.image_size)),
            sites=list(attended(network)),
            num_classes=len(train.classes),
            classes=list(train.classes),
            vocabulary=task.vocabulary(train),
            image_size=list(train.image_size),
            normalization={"mean": mean, "std": std},
            data=fingerprint(*data),
        )
        self.record.stretches = [{"from_step": 0} | self.record.environment]
        self.plain = network.to(accelerator.device).to(memory_format=torch.channels_last)
        #: Names of the tensors that must stay finite; others, e.g. masks, hold infinities from the start.
        self._finite = [name for name, value in self.plain.state_dict().items() if value.isfinite().all()]
        self.average = moving_average(self.plain, self.recipe.ema) if self.recipe.ema else None
        stepper = optimizer(self.plain, self.recipe, task.new_parts(self.plain, len(train.classes)))
        network, self.optimizer = accelerator.prepare(self.plain, stepper)
        self.trainer = Trainer(task, task.prepared(network), self.optimizer, accelerator, self.average)
        self.progress = Progress(accelerator.device)
        self.evaluation: Evaluation | None = None  #: the last one of this process

    def restore(self, *, allow_mixed: bool = False) -> None:
        """Load the newest saved state, if any.

        Raises:
            ValueError: if it belongs to another run or, unless `allow_mixed`, to another number of processes.
        """
        state = load_state(self.out)
        if state is None:
            return
        check_state(state, self.recipe, self.out)
        self.record.stretches = stretches_of(state, self.record.environment, self.out, allow_mixed=allow_mixed)
        try:
            self._load(state)
        except torch.OutOfMemoryError:  # the state may be good
            raise
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"the training state in {self.out} does not fit this network ({reason}); move it away"
            ) from None

    def _load(self, state: Mapping[str, Any]) -> None:
        self.plain.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.progress.load(state["progress"])
        self.best.load(state.get("best", {}))  # old states have none
        self.record.history = json.loads(state["history"])
        check_types(vars(self.record), {"history": list[dict[str, Any]]}, self.out)

    def save(self) -> None:
        """Save the current state and the figures of the steps so far, unless a loss or a weight is not finite.

        In that case, the next check ends the run.
        """
        if self._is_sound():
            self._save_steps()
            self._save_state()

    def _save_steps(self) -> None:
        losses = self.progress.take_losses()
        for step, lr, *values in losses:
            curves = dict(zip(self.progress.losses, map(float, values), strict=True))
            self.accelerator.log({"lr": float(lr), **curves}, step=int(step))
        if self.main:
            append_steps(self.out, list(self.progress.losses), losses)

    def _save_state(self) -> None:
        if not self.main:
            return
        save_state(
            self.out,
            self.progress.step,
            {
                "model": self.plain.state_dict(),
                "average": {} if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {},
                "progress": self.progress.state(),
                "best": self.best.state(),
                "recipe": strict_json(self.recipe.as_dict(), indent=None),
                "stretches": strict_json(self.record.stretches, indent=None),
                "history": strict_json(self.record.history, indent=None),
            },
        )
        self.record.write(self.out)
        self.progress.start_clock()

    def train(self, save_seconds: float) -> Record:
        """Train to the end, saving along the way.

        Raises:
            Interrupted: after Ctrl-C, SIGTERM or SIGHUP, with the state saved.
            Diverged: if a loss, a weight or a result is not finite; the record then holds the failure.
        """
        self.accelerator.wait_for_everyone()  # every process has read the saved state
        if self.main:
            write_atomically(self.out / "recipe.yaml", self.recipe.to_yaml())
            set_aside_after(self.out, self.progress.step)
            keep_steps_before(self.out, self.progress.step)
        steps = self.train_batches.steps // self.recipe.accumulation * self.recipe.epochs
        saved_at = time.monotonic()
        with stop_request() as stop, Display(self.title, steps, self.progress.step, self.main) as display:
            for note in self.notes:
                display.say(note)
            while self.progress.epoch < self.recipe.epochs:
                epoch = self.trainer.epoch(self.train_batches, self.progress, display)
                with contextlib.closing(epoch):
                    for _ in epoch:
                        if self.progress.step % _LOOK == 0:
                            self._stop_if_diverged(self.progress.is_finite())
                        if self._all_stop(stop):
                            self._stop_if_diverged(self._is_sound())
                            self.save()
                            where = f"step {self.progress.step} of {steps}"
                            message = f"stopped after {where}; the state is saved in {self.out}"
                            raise Interrupted(message, max(stop, default=signal.SIGTERM))
                        if time.monotonic() - saved_at > save_seconds:
                            self.save()
                            saved_at = time.monotonic()
                self._stop_if_diverged(self._is_sound())
                self._finish_epoch(display)
                self.save()
                saved_at = time.monotonic()
        self._finish()
        if stop:  # this run is complete, but a comparison must not start the next one
            raise Interrupted(f"stopped; {self.out} is complete", stop[0])
        return self.record

    def _is_sound(self) -> Tensor:
        """Whether the losses of this epoch and the network's state are finite; 1 or 0."""
        state = self.plain.state_dict()
        return self.progress.is_finite() * all(bool(state[name].isfinite().all()) for name in self._finite)

    def _stop_if_diverged(self, finite: Tensor) -> None:
        """Raise Diverged in all processes if `finite` is 0 in one."""
        if self.accelerator.reduce(finite, "sum") == self.accelerator.num_processes:
            return
        step, lr = self.progress.first_broken()
        self._save_steps()
        self._fail("loss or weight", step, lr)

    def _fail(self, quantity: str, step: int, lr: float) -> None:
        """Record that the run has failed, and raise Diverged."""
        saved = newest_step(self.out)
        last_good = "there is no earlier state" if saved is None else f"the last good state is that of step {saved}"
        reason = f"training diverged: a {quantity} is not finite at step {step}, learning rate {lr:g}; {last_good}"
        self.record.failure = {"step": step, "lr": lr, "good_step": saved, "reason": reason}
        if self.main:
            self.record.write(self.out)
        self.accelerator.wait_for_everyone()
        raise Diverged(f"{self.out}: {reason}; choose a lower --lr and another --out")

    def _finish_epoch(self, display: Display) -> None:
        """Evaluate, then record and show the epoch's results."""
        row = self.progress.finish_epoch(self.accelerator)
        description = self.task.describe(row)
        is_last = self.progress.epoch == self.recipe.epochs
        if is_last or self.progress.epoch % self.recipe.evaluate_every == 0:
            self.evaluation = self._evaluate(self.test_batches, self.test)
            row |= self.evaluation.figures
            if self.held_out is not None:
                held_out = self._evaluate(*self.held_out)
                row |= renamed(held_out.figures)
                self.best.offer(self.progress.epoch, held_out, self._final())
            decisive = ("test_loss", HELD_OUT + "loss", self.evaluation.measures[0].key)
            if not all(math.isfinite(row.get(name, 0.0)) for name in decisive):
                self._fail("result on the test images", self.progress.step, self.optimizer.param_groups[0]["lr"])
            results = [f"{m.label} {100 * row[m.key]:.2f} %" for m in self.evaluation.measures[:_SHOWN]]
            description = "  ".join([description, *results])
        self.progress.unreadable.add(self.test_batches.take_unreadable())
        if self.held_out is not None:
            self.progress.unreadable.add(self.held_out[0].take_unreadable())
        unreadable = self.progress.take_unreadable()
        if unreadable.count:
            row["unreadable"] = unreadable.count
        self.record.history.append(row)
        self.accelerator.log(row, step=self.progress.step)
        self.progress.start_clock()
        display.epoch(self.progress.epoch, self.recipe.epochs, description, row["images_per_second"])
        if unreadable.count:
            display.say(f"unreadable images left out in this epoch: {unreadable.count}, e.g. {unreadable.example}")

    def _evaluate(self, batches: BatchSource, images: Images) -> Evaluation:
        if self.average is None:
            return self.task.evaluate(self.trainer.network, batches, images)
        with self.accelerator.autocast():
            return self.task.evaluate(self.average.module, batches, images)

    def _final(self) -> nn.Module:
        """The network that is evaluated and saved."""
        return self.plain if self.average is None else self.average.module

    def _all_stop(self, stop: list[int]) -> bool:
        """Whether to stop now. Several processes must stop at the same step, so they agree every 20 steps."""
        if self.accelerator.num_processes == 1:
            return bool(stop)
        if self.progress.step % 20:
            return False
        if stop:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def _finish(self) -> None:
        chosen_row = self.record.history[(self.best.epoch or self.progress.epoch) - 1]
        if self.best.epoch not in (0, self.progress.epoch):
            self._final().load_state_dict(self.best.weights)
            self.evaluation = None
        seconds = sum(row["seconds"] for row in self.record.history)
        rates = sorted(row["images_per_second"] for row in self.record.history)
        # No evaluation is left if the run was stopped after its last epoch, or another epoch is the best.
        evaluation = self.evaluation or self._evaluate(self.test_batches, self.test)
        prefixes = ("test_", "train_", HELD_OUT)
        self.record.final = {name: value for name, value in chosen_row.items() if name.startswith(prefixes)}
        if self.held_out is not None:
            self.record.final["epoch"] = chosen_row["epoch"]
        self.record.measures = evaluation.measures
        self.record.final |= {"seconds": seconds, "images_per_second": rates[len(rates) // 2]}
        if self.main:
            for name, content in self.task.results(evaluation, self.test).items():
                write_atomically(self.out / name, content)
            weights = {name: value.contiguous() for name, value in self._final().state_dict().items()}
            write_atomically(self.out / WEIGHTS, save(weights))
            self.record.write(self.out)
        self.accelerator.wait_for_everyone()
