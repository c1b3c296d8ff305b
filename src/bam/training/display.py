"""Progress on the terminal: a bar, and one line per epoch."""

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, ClassVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Display:
    """On a terminal, a progress bar with loss, error, images per second and time left; elsewhere one line per epoch.

    Reading a loss from a GPU waits for the GPU, so the bar reads it at most twice per second.

    Attributes:
        bars: whether there are bars; several processes that share a terminal print lines only.
    """

    bars: ClassVar[bool] = True

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
            disable=not (visible and self.bars and self.console.file.isatty()),
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
        shown = [
            f"{name.replace('_', ' ')} {value:.3f}" if name.startswith("loss") else f"{name} {100 * value:.1f} %"
            for name, value in figures.items()
        ]
        self.progress.update(self.task, completed=done, status="  ".join([*shown, _rate(rate)]))

    def epoch(self, epoch: int, epochs: int, description: str, rate: float) -> None:
        """Print one line for a finished epoch."""
        self.console.print(f"{self.title}  epoch {epoch}/{epochs}  {description}  {_rate(rate)}", soft_wrap=True)

    def say(self, message: str) -> None:
        """Print a message; it may contain file names with undecodable bytes."""
        self.console.print(message.encode(errors="backslashreplace").decode(), soft_wrap=True)


def _rate(images_per_second: float) -> str:
    return f"{images_per_second:,.{0 if images_per_second >= 10 else 1}f} images/s"


def track(items: Iterable[Any], total: int, title: str) -> Iterator[Any]:
    """Yield the `total` items of `items`, with a progress bar on a terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.file.isatty()) as progress:
        yield from progress.track(items, total, description=title)
