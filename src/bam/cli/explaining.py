"""Verbs about attention: explain, examine."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bam.cli.results import LabelledData, measured_images, opened, say


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
    from bam.data.files.listing import check_not_overwritten, find_files
    from bam.explanation import hierarchy, save_png
    from bam.reports.gallery import write_gallery
    from bam.training.run import accelerate_afresh

    views: list[dict[str, Any]] = []
    with accelerate_afresh(device) as place:
        task, trained, _ = opened(run, place)
        reading = _Reading(find_files([Path(image) for image in images if image]))
        check_not_overwritten(reading.files, [out / f"{name}.png" for name in reading.names])
        for view in task.views(trained, reading):
            maps = {site.site: site.shown for site in view.sites}
            save_png(hierarchy(view.pixels, maps), out / f"{view.name}.png")
            views.append(view.as_plain())
    if not views:
        raise ValueError(f"none of the {len(reading.files)} images can be read: {reading.unreadable[0]}")
    attention = task.recipe.attention if task.recipe.attention.name != "none" else "its attention"
    page = write_gallery(out, f"{task.recipe.model} with {attention}: what it attends to", views, reading.unreadable)
    say([*reading.unreadable, f"{len(views)} images: {page}, and a PNG of each beside it"])


def examine(
    run: Path,
    out: Path = Path("examination"),
    limit: int = 256,
    data: LabelledData = LabelledData(),
    device: str | None = None,
) -> None:
    """Find out whether the attention of a trained classifier is evidence or decoration, on labelled images.

    Statistics of the maps; where the attention points, against chance, the centre of the image and Grad-CAM (for images
    with boxes); whether deleting the places it points at hurts more than deleting others; accuracy without each site,
    and with each branch alone. All with 95 % intervals over images. Writes examination.json.

    Args:
        run: folder of a complete run, or of a network saved by bam export.
        out: folder for examination.json.
        limit: number of images, drawn at random but the same in every call; 0 for all. Deleting and inserting takes
            longest: 64 small images take about 14 seconds on one core.
        device: cpu or cuda (default: a GPU if there is one).
    """

    from bam.files import strict_json, write_atomically
    from bam.reports.wording import examination_lines
    from bam.training.display import Stages
    from bam.training.run import accelerate_afresh

    with accelerate_afresh(device) as place:
        task, trained, record = opened(run, place)
        if record is None and data.data is None:
            raise ValueError(f"{run} is a saved network, which has no data of its own: give --data, e.g. folder:PATH")
        task = task.on_data(data.data, data.data_options, trained.preprocessing)
        images, notes = measured_images(task, trained, data, record)
        with Stages() as stages:
            results = task.examine(trained, images, limit or None, stages.show)
    about = {"run": str(run), "data": task.recipe.data, "part": data.part}
    write_atomically(out / "examination.json", strict_json(about | results))
    say([*notes, *examination_lines(results), f"examination.json in {out}"])


class _Reading:
    """Reads images one by one, with a progress bar, and notes those that cannot be read.

    Each has a name of its own: that of its file, with a number where several are called alike.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files, self.names, self.unreadable = files, list[str](), list[str]()
        for file in files:
            candidates = (file.stem if k == 1 else f"{file.stem}-{k}" for k in range(1, len(files) + 1))
            self.names.append(next(name for name in candidates if name not in self.names))

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        from bam.data.files.decoding import read_rgb
        from bam.training.display import track

        for name, file in track(list(zip(self.names, self.files, strict=True)), len(self.files), "explaining"):
            try:
                yield name, read_rgb(str(file))
            except ValueError as error:
                self.unreadable.append(f"left out: {file} cannot be read as an image: {error}")
