"""The verb explain: what a network's attention does in your images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bam.cli.results import opened, say


def explain(run: Path, images: list[str], out: Path = Path("explanations"), device: str | None = None) -> None:
    """Show what the attention in a trained network attends to, image by image and site by site.

    Writes gallery.html, a page to step through images and sites, and for each image a PNG with all its sites side by
    side. They show the network's own attention: the spatial attention of modules that have it, and the gain, which says
    how much stronger a module leaves each place.

    Args:
        run: folder of a complete run, or of a network saved by bam export.
        images: files or folders, separated by commas.
        out: folder for the page and the pictures.
        device: cpu or cuda (default: a GPU if there is one).
    """
    from bam.data.files.listing import find_files
    from bam.explanation import hierarchy, save_png
    from bam.reports.gallery import write_gallery
    from bam.training.run import accelerate_afresh

    views: list[dict[str, Any]] = []
    with accelerate_afresh(device) as place:
        task, trained, _ = opened(run, place)
        reading = _Reading(find_files([Path(image) for image in images if image]))
        for view in task.views(trained, reading):
            maps = {site.site: site.shown for site in view.sites}
            save_png(hierarchy(view.pixels, maps), out / f"{view.name}.png")
            views.append(view.as_plain())
    if not views:
        raise ValueError(f"none of the {len(reading.files)} images can be read: {reading.unreadable[0]}")
    attention = task.recipe.attention if task.recipe.attention.name != "none" else "its attention"
    page = write_gallery(out, f"{task.recipe.model} with {attention}: what it attends to", views, reading.unreadable)
    say([*reading.unreadable, f"{len(views)} images: {page}, and a PNG of each beside it"])


class _Reading:
    """Reads images one by one, with a progress bar, and notes those that cannot be read.

    Each has a name of its own: that of its file, with a number where several are called alike.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files, self.unreadable = files, list[str]()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        from bam.data.files.decoding import read_rgb
        from bam.training.display import track

        used: set[str] = set()
        for file in track(self.files, len(self.files), "explaining"):
            try:
                image = read_rgb(str(file))
            except ValueError as error:
                self.unreadable.append(f"left out: {file} cannot be read as an image: {error}")
                continue
            number = next(k for k in range(1, len(self.files) + 1) if self._named(file, k) not in used)
            used.add(self._named(file, number))
            yield self._named(file, number), image

    @staticmethod
    def _named(file: Path, number: int) -> str:
        return file.stem if number == 1 else f"{file.stem}-{number}"
