"""Progress on the terminal: a bar, and one line per epoch."""

import time
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bam.data import BatchSource, Unreadable

Item = TypeVar("Item")


class Display:
    """On a terminal, a progress bar with loss, error, images per second and time left; elsewhere one line per epoch.

    Reading a loss from a GPU waits for the GPU, so the bar reads it at most twice per second.
    """

    def __init__(self, title: str, total_steps: int, done: int, visible: bool = True) -> None:
        self.console = Console(highlight=False, markup=False, emoji=False, quiet=not visible)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not (visible and self.console.is_terminal),
        )
        self.title = title
        self.task = self.progress.add_task(title, total=total_steps, completed=done, status="")
        self.shown_at = time.perf_counter()

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.progress.stop()

    def due(self) -> bool:
        """Whether the bar needs new figures."""
        return not self.progress.disable and time.perf_counter() - self.shown_at > 0.5

    def step(self, done: int, figures: dict[str, float], rate: float) -> None:
        """Show the progress after `done` steps: losses as they are, other figures in percent."""
        self.shown_at = time.perf_counter()
        texts = [
            f"{name.replace('_', ' ')} {value:.3f}" if name.startswith("loss") else f"{name} {100 * value:.1f} %"
            for name, value in figures.items()
        ]
        self.progress.update(self.task, completed=done, status="  ".join([*texts, _rate(rate)]))

    def epoch(self, epoch: int, epochs: int, description: str, rate: float) -> None:
        """Print one line for a finished epoch."""
        self.console.print(f"{self.title}  epoch {epoch}/{epochs}  {description}  {_rate(rate)}", soft_wrap=True)

    def say(self, message: str) -> None:
        """Print a message; it may contain file names with undecodable bytes."""
        self.console.print(message.encode(errors="backslashreplace").decode(), soft_wrap=True)


def _rate(images_per_second: float) -> str:
    return f"{images_per_second:,.{0 if images_per_second >= 10 else 1}f} images/s"


def track(items: Iterable[Item], total: int, title: str) -> Iterator[Item]:
    """Pass on `items`, of which there are `total`; on a terminal, with a progress bar."""
    console = Console(highlight=False, markup=False, emoji=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(items, total, description=title)


class ShownBatches:
    """Batches whose `test` shows how far it is.

    Args:
        batches: the batches.
        total: how many batches `test` serves.
        title: of the progress bar.
    """

    def __init__(self, batches: BatchSource, total: int, title: str) -> None:
        self.batches, self.total, self.title = batches, total, title

    @property
    def steps(self) -> int:
        """Batches in a training epoch."""
        return self.batches.steps

    def train(self, seed: int, epoch: int, start: int = 0) -> Generator[tuple[Any, Any], None, None]:
        """Serve the batches of an epoch."""
        return self.batches.train(seed, epoch, start)

    def test(self) -> Generator[tuple[Any, Any], None, None]:
        """Serve all images in order."""
        yield from track(self.batches.test(), self.total, self.title)

    def take_unreadable(self) -> Unreadable:
        """Return the images left out since the last call."""
        return self.batches.take_unreadable()


class Stages:
    """A progress bar for work in stages; only on a terminal."""

    def __init__(self) -> None:
        console = Console(highlight=False, markup=False, emoji=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.progress.add_task("")

    def __enter__(self) -> "Stages":
        self.progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.progress.stop()

    def show(self, title: str, done: int, total: int) -> None:
        """Show that `done` of `total` items of a stage are done."""
        self.progress.update(self.task, description=title, completed=done, total=total)
