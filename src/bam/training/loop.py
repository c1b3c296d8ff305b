"""The training loop: one epoch."""

import contextlib
import dataclasses
import time
from collections.abc import Generator, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from bam.data import BatchSource, Unreadable
from bam.tasks import Task
from bam.training.display import Display
from bam.training.optimization import learning_rate


class Progress:
    """The progress of a run; its sums stay on the device, so that no step waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.epoch = self.step = 0  #: finished epochs, finished optimisation steps
        self.step_in_epoch = 0
        self.seconds = 0.0  #: training time in this epoch, up to the last reading of the clock
        self.images = 0  #: images seen by this process in this epoch
        self.unreadable = Unreadable()  #: images this process left out in this epoch
        self.names: list[str] = []  #: names of a step's figures; the first is the loss
        self.sums = torch.zeros(0, device=device, dtype=torch.float64)  #: sum of each figure over `images`
        self.last = (0, 0.0)  #: the last step and its learning rate
        self._losses: list[tuple[int, float, Tensor]] = []
        self.start_clock()

    def start_clock(self) -> None:
        """Start counting training time now; the time since the last reading does not count."""
        self._since = time.perf_counter()

    def read_clock(self) -> float:
        """Seconds of training in this epoch; exact only after waiting for the device."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        return self.seconds

    def add(self, lr: float, figures: dict[str, Tensor], images: int) -> None:
        """Count one optimisation step, given its figures as sums over its images."""
        if not self.names:
            self.names = list(figures)
            self.sums = self.sums.new_zeros(len(figures))
        values = torch.stack(list(figures.values()))
        self._losses.append((self.step, lr, values[: len(self.losses)] / images))
        self.sums += values
        self.last = (self.step, lr)
        self.images += images
        self.step += 1
        self.step_in_epoch += 1

    @property
    def losses(self) -> list[str]:
        """Names of the losses among the figures; the first one is minimised."""
        return [name for name in self.names if name.startswith("loss")]

    def is_finite(self) -> Tensor:
        """Whether all losses of this epoch are finite: 1 or 0, on the device."""
        return self.sums[: len(self.losses)].isfinite().all().float()

    def first_broken(self) -> tuple[int, float]:
        """The step and learning rate of the first loss since `take_losses` that is not finite, or else the last."""
        broken = ((step, lr) for step, lr, values in self._losses if not values.isfinite().all())
        return next(broken, self.last)

    def take_losses(self) -> list[list[str]]:
        """Rows of text for the steps since the last call: step, learning rate and losses."""
        losses = torch.stack([values for *_, values in self._losses]).tolist() if self._losses else []
        self.read_clock()
        rows = [
            [str(step), f"{lr:.6g}", *(f"{value:.6g}" for value in values)]
            for (step, lr, _), values in zip(self._losses, losses, strict=True)
        ]
        self._losses.clear()
        return rows

    def means(self) -> dict[str, float]:
        """Mean of each figure so far in this epoch; waits for the device."""
        return dict(zip(self.names, (self.sums / self.images).tolist(), strict=True))

    def finish_epoch(self, accelerator: Accelerator) -> dict[str, float]:
        """End the epoch; returns its figures over all processes."""
        count = torch.tensor([self.images], device=self.sums.device)  # differs if a process could not read some images
        *sums, images = accelerator.reduce(torch.cat([self.sums, count]).float(), "sum").tolist()
        seconds = self.read_clock()
        self.epoch += 1
        row = {"epoch": self.epoch} | {
            f"train_{name}": value / images for name, value in zip(self.names, sums, strict=True)
        }
        row |= {"seconds": seconds, "images_per_second": images / seconds}
        self.step_in_epoch, self.images, self.seconds = 0, 0, 0.0
        self.sums.zero_()
        return row

    def take_unreadable(self) -> Unreadable:
        """The images left out in this epoch, over all processes; resets the count."""
        total = Unreadable()
        for count, example in gather_object([dataclasses.astuple(self.unreadable)]):
            total.add(Unreadable(count, example))
        self.unreadable = Unreadable()
        return total

    def state(self) -> dict[str, Any]:
        """The state `load` resumes from."""
        names = ("epoch", "step", "step_in_epoch", "seconds", "images", "names")
        unreadable = dataclasses.asdict(self.unreadable)
        return {name: getattr(self, name) for name in names} | {"sums": self.sums.cpu(), "unreadable": unreadable}

    def load(self, state: dict[str, Any]) -> None:
        """Resume from `state`."""
        self.sums = state.pop("sums").to(self.sums.device)
        # States of the first versions (classification only) lack some entries.
        self.unreadable = Unreadable(**state.pop("unreadable", {}))
        self.names = state.pop("names", ["loss", "error"])
        self.__dict__.update(state)


@dataclasses.dataclass
class Trainer:
    """Runs the epochs of a task: holds its network, optimiser and accelerator."""

    task: Task
    network: nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    average: AveragedModel | None = None  #: moving average of the weights, updated after every step

    def epoch(self, batches: BatchSource, progress: Progress, display: Display) -> Generator[None, None, None]:
        """Train from `progress` to the end of the epoch; yields after every optimisation step.

        Closing the generator ends the processes that decode images.
        """
        recipe = self.task.recipe
        self.network.train()
        progress.start_clock()
        steps = batches.steps // recipe.accumulation
        start = progress.step_in_epoch * recipe.accumulation
        with contextlib.closing(batches.train(recipe.seed, progress.epoch, start)) as stream:
            for _ in range(progress.step_in_epoch, steps):
                lr = learning_rate(recipe, progress.step, steps)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr * group.get("lr_scale", 1.0)  # old states have none
                figures, images = self._step(stream, progress.step)
                progress.unreadable.add(batches.take_unreadable())
                progress.add(lr, figures, images)
                if display.due():
                    display.step(progress.step, progress.means(), progress.images / progress.read_clock())
                yield

    def _step(self, stream: Iterator[tuple[Any, Any]], step: int) -> tuple[dict[str, Tensor], int]:
        """Take one optimisation step; returns its figures as sums over its images, and the number of images."""
        recipe, accelerator = self.task.recipe, self.accelerator
        figures: dict[str, Tensor] = {}
        images = 0
        for part in range(recipe.accumulation):
            # Each part has its own seed: no random state needs saving, and a resumed run draws the same numbers.
            seed = (recipe.seed * 1_000_003 + step) * 1_009 + accelerator.process_index
            torch.manual_seed(seed + part * 1_000_003**2)
            batch, targets = next(stream)
            with accelerator.accumulate(self.network):
                loss, part_figures = self.task.loss(self.network, batch, targets)
                accelerator.backward(loss)
                if recipe.clip_norm and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in part_figures.items():
                figures[name] = figures[name] + value if name in figures else value
            images += len(targets)
        if self.average is not None:
            self.average.update_parameters(accelerator.unwrap_model(self.network, keep_torch_compile=False))
        return figures, images
