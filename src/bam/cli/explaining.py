"""The verb explain: what a network's attention does in your images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def explain(run: Path, images: list[str], out: Path = Path("explanations")) -> None:
    """Show what the attention in a trained network attends to, image by image and site by site.

    Writes gallery.html, a page to step through images and sites, and for each image a PNG with all its sites side by
    side. They show the network's own attention: the spatial attention of modules that have it, and the gain, which says
    how much stronger a module leaves each place.

    Args:
        run: folder of a complete run.
        images: files or folders, separated by commas.
        out: folder for the page and the pictures.
    """
    from bam.explanation import hierarchy, save_png
    from bam.recipes import Recipe
    from bam.reports.gallery import write_gallery
    from bam.tasks import task_of
    from bam.training import trained_model

    network, record = trained_model(run)
    task = task_of(Recipe.from_dict(record.recipe))
    reading = _Reading([Path(image) for image in images])
    views: list[dict[str, Any]] = []
    for view in task.views(network, record.classes, reading, _prepare(network, record)):
        save_png(hierarchy(view.pixels, {site.site: site.shown for site in view.sites}), out / f"{view.name}.png")
        views.append(view.as_plain())
    if not views:
        raise ValueError(f"no image could be read: {reading.unreadable[0]}")
    page = write_gallery(
        out, f"What {record.recipe['model']} with {record.recipe['attention']} attends to", views, reading.unreadable
    )
    print(*reading.unreadable, f"{len(views)} images: {page}, and a PNG of each beside it", sep="\n")


def _prepare(network: Any, record: Any) -> Any:
    """The test-time preprocessing of a run: from a PIL image to the network's input, and its pixels as uint8."""
    import torch

    from bam.export import preprocessing
    from bam.export.description import complete, describe_run

    if record.recipe["task"] != "classification":
        return None
    transform = preprocessing(complete(network, describe_run(record))[0])
    mean, std = (torch.tensor(record.normalization[name])[:, None, None] for name in ("mean", "std"))

    def prepare(image: Any) -> Any:
        inputs = transform(image)
        return inputs, (255 * (inputs * std + mean)).round().clamp(0, 255).to(torch.uint8)

    return prepare


class _Reading:
    """Images read one by one, with a progress bar; those that cannot be read are noted."""

    def __init__(self, paths: Sequence[Path]) -> None:
        from bam.tasks.detection.predict import find_files

        self.files = find_files(paths)
        self.unreadable: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        from rich.progress import track

        from bam.data.files.decoding import read_rgb

        for file in track(self.files, "explaining", transient=True):
            try:
                yield file.stem, read_rgb(str(file))
            except ValueError as error:
                self.unreadable.append(f"{file} was left out: {error}")
