"""The loop: an epoch of training, and an evaluation."""

import contextlib
import dataclasses
import time
from collections.abc import Generator
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from bam.data import BatchSource, Unreadable
from bam.recipes import Recipe
from bam.training.display import Display
from bam.training.optimization import learning_rate


class Progress:
    """How far a run has come, with sums kept on the device so that no step waits for the host."""

    def __init__(self, device: torch.device) -> None:
        self.epoch = self.step = 0  #: finished epochs, finished optimisation steps
        self.step_in_epoch = 0
        self.seconds = 0.0  #: of training in this epoch, up to when the clock was last read
        self.images = 0  #: seen by this process in this epoch
        self.unreadable = Unreadable()  #: left out of the batches of this process in this epoch
        self.sums = torch.zeros(2, device=device, dtype=torch.float64)  # loss and errors, summed over these images
        self._losses: list[tuple[int, float, Tensor]] = []
        self.start_clock()

    def start_clock(self) -> None:
        """Training time counts from here; what came since the clock was last read does not."""
        self._since = time.perf_counter()

    def read_clock(self) -> float:
        """Seconds of training in this epoch. True only when the device has been waited for."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        return self.seconds

    def add(self, lr: float, loss: Tensor, errors: Tensor, images: int) -> None:
        """Count one optimisation step: its mean loss and its number of errors."""
        self._losses.append((self.step, lr, loss))
        self.sums += torch.stack([loss * images, errors])
        self.images += images
        self.step += 1
        self.step_in_epoch += 1

    def take_losses(self) -> list[tuple[int, str, str]]:
        """(step, learning rate, loss) of the steps since the last call, as text."""
        losses = torch.stack([loss for *_, loss in self._losses]).tolist() if self._losses else []
        self.read_clock()
        rows = [(step, f"{lr:.6g}", f"{loss:.6g}") for (step, lr, _), loss in zip(self._losses, losses, strict=True)]
        self._losses.clear()
        return rows

    def finish_epoch(self, accelerator: Accelerator) -> dict[str, float]:
        """The figures of the epoch that ends here, over all processes; the next one begins."""
        seen = torch.tensor([self.images], device=self.sums.device)  # not all processes could read all of their images
        loss, errors, images = accelerator.reduce(torch.cat([self.sums, seen]).float(), "sum").tolist()
        seconds = self.read_clock()
        self.epoch += 1
        row = {
            "epoch": self.epoch,
            "train_loss": loss / images,
            "train_error": errors / images,
            "seconds": seconds,
            "images_per_second": images / seconds,
        }
        self.step_in_epoch, self.images, self.seconds = 0, 0, 0.0
        self.sums.zero_()
        return row

    def take_unreadable(self) -> Unreadable:
        """The images that were left out in this epoch, over all processes; counting begins anew."""
        total = Unreadable()
        for found in gather_object([dataclasses.astuple(self.unreadable)]):
            total.add(Unreadable(*found))
        self.unreadable = Unreadable()
        return total

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on from here."""
        names = ("epoch", "step", "step_in_epoch", "seconds", "images")
        unreadable = dataclasses.asdict(self.unreadable)
        return {name: getattr(self, name) for name in names} | {"sums": self.sums.cpu(), "unreadable": unreadable}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.sums.copy_(state.pop("sums"))
        self.unreadable = Unreadable(**state.pop("unreadable", {}))  # states of the first versions lack it
        self.__dict__.update(state)


def train_epoch(
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: BatchSource,
    accelerator: Accelerator,
    progress: Progress,
    display: Display,
) -> Generator[None, None, None]:
    """Train from where `progress` stands to the end of its epoch; yields after every optimisation step.

    When it is closed, processes that decode images end.
    """
    model.train()
    progress.start_clock()
    parts = recipe.accumulation
    steps = batches.steps // parts
    with contextlib.closing(batches.train(recipe.seed, progress.epoch, progress.step_in_epoch * parts)) as stream:
        for _ in range(progress.step_in_epoch, steps):
            lr = learning_rate(recipe, progress.step, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            # Each step has a seed of its own: nothing random is left to save, and a resumed run draws the same.
            torch.manual_seed((recipe.seed * 1_000_003 + progress.step) * 1_009 + accelerator.process_index)
            losses, errors, images = [], [], 0
            for _ in range(parts):
                image, target = next(stream)
                with accelerator.accumulate(model):
                    logits = _logits(model(image))
                    loss = F.cross_entropy(logits.float(), target, label_smoothing=recipe.label_smoothing)
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                losses.append(loss.detach())
                errors.append((logits.argmax(1) != target).sum())
                images += len(target)
            progress.unreadable.add(batches.take_unreadable())
            progress.add(lr, torch.stack(losses).mean(), torch.stack(errors).sum(), images)
            if display.due():
                loss_now, error_now = (progress.sums / progress.images).tolist()
                display.step(progress.step, loss_now, error_now, progress.images / progress.read_clock())
            yield


@torch.no_grad()
def evaluate(model: nn.Module, batches: BatchSource, accelerator: Accelerator) -> dict[str, float]:
    """Mean cross-entropy, top-1 and (of more than 5 classes) top-5 error over all images that can be read."""
    model.eval()
    sums = torch.zeros(3, device=accelerator.device)
    classes = seen = 0
    for image, target in batches.test():
        logits = _logits(model(image)).float()
        loss = F.cross_entropy(logits, target, reduction="sum")
        classes = logits.shape[1]
        missed = (logits.topk(min(5, classes)).indices != target[:, None]).all(1)
        sums += torch.stack([loss, (logits.argmax(1) != target).sum(), missed.sum()])
        seen += len(target)
    total = torch.cat([sums, torch.tensor([seen], device=sums.device)])
    loss_sum, errors, missed_sum, images = accelerator.reduce(total, "sum").tolist()
    found = {"test_loss": loss_sum / images, "test_error": errors / images}
    return found | ({"test_error_top5": missed_sum / images} if classes > 5 else {})


def _logits(output: Any) -> Tensor:
    """The class logits (N, num_classes) of a network's output; GoogLeNet's and Inception's auxiliary ones are left."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        what = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"the network returns {what}, and no class logits (N, classes): it is no classifier of images")
    return logits
