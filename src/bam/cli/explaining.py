"""The verbs explain and examine: what a trained network's attention does."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bam.cli.named import NOTHING_NAMED, NamedNetwork
from bam.cli.opening import check_question, opened
from bam.cli.results import LabelledData, measured, say

if TYPE_CHECKING:
    from bam.explanation.views import ImageView


@dataclass(frozen=True)
class ExaminedData(LabelledData):
    """The labelled data to examine, and how many images of them.

    Attributes:
        limit: number of images, drawn at random but the same in every call; 0 for all. Deletion and insertion take
            the longest: about 14 seconds for 64 small images on one core.
    """

    limit: int = 256


def explain(
    run: Path,
    images: list[str],
    out: Path = Path("explanations"),
    question: str | None = None,
    named: NamedNetwork = NOTHING_NAMED,
    device: str | None = None,
) -> None:
    """Show what the attention in a trained network attends to, image by image and site by site.

    Writes gallery.html, a page to step through images and sites; one PNG per image with all sites side by side; and one
    PNG per site, IMAGE/SITE.png. They show the network's own attention: the spatial attention of modules that have it,
    and the gain, which is how much a module strengthens each place. For a network that answers questions, they also
    show which regions and words the question attends to.

    Args:
        run: folder of a complete run or of a network saved by bam export, or the name of a network (see `bam models`).
        images: one or more files or folders.
        out: folder for the page and the pictures.
        question: question to ask about each image, for networks that answer questions: "how many 3s are there".
        device: cpu or cuda (default: a GPU if there is one).
    """
    from bam.data.files.listing import find_files
    from bam.reports.gallery import write_gallery
    from bam.training.run import accelerate_afresh

    with accelerate_afresh(device) as place:
        task, trained, _, notes = opened(run, named, place)
        notes += [f"question: {question}"] if question else []
        notes += check_question(run, task, trained, question)
        files, skipped = find_files([Path(image) for image in images if image])
        reading, notes = _Reading(files, turn=task.turns), [*notes, *skipped]
        views = _draw(task.views(trained, reading, question), reading, out)
    if not views:
        raise ValueError(f"none of the {len(reading.files)} images can be read: {reading.unreadable[0]}")
    spec = named.attention if task.recipe.attention.is_none else task.recipe.attention
    title = f"{task.recipe.model} with {'its attention' if spec.is_none else spec}: what it attends to"
    page = write_gallery(out, title, views, [*notes, *reading.unreadable])
    say([*notes, *reading.unreadable, f"{len(views)} images: {page}, with one PNG per image and per site beside it"])


def _draw(views: "Iterable[ImageView]", reading: "_Reading", out: Path) -> list[dict[str, Any]]:
    """Write the pictures of all images; returns their views for the page."""
    from bam.data.files.listing import check_not_overwritten
    from bam.explanation import save_png

    check_not_overwritten(reading.files, [out / f"{name}.png" for name in reading.names])
    plain = []
    for view in views:
        save_png(view.picture(), out / f"{view.name}.png")
        pictures = [out / view.name / f"{site.site.replace('/', '-')}.png" for site in view.sites]
        check_not_overwritten(reading.files, pictures)
        for picture, site in zip(pictures, view.sites, strict=True):
            save_png(view.picture(site, plain=False), picture)
        plain.append(view.as_plain())
    return plain


def examine(
    run: Path,
    out: Path = Path("examination"),
    data: ExaminedData = ExaminedData(),
    named: NamedNetwork = NOTHING_NAMED,
    device: str | None = None,
) -> None:
    """Test on labelled images whether the network relies on its attention, and whether the attention finds the object.

    For a classifier it reports statistics of the maps; where the attention points, compared with chance, the centre of
    the image and Grad-CAM (if the images have boxes); whether deleting the places it points at hurts more than deleting
    others; and the accuracy without each site and with each branch alone. For a detector it reports only where the
    attention points, without Grad-CAM. All figures have 95 % intervals over images.

    Writes examination.json. For each site with channel attention, also writes the channels that tell classes apart, as
    figures/channels-SITE.svg and .csv.

    Args:
        run: folder of a complete run or of a network saved by bam export, or the name of a network (see `bam models`).
        out: folder for examination.json.
        device: cpu or cuda (default: a GPU if there is one).
    """

    from bam.files import strict_json, write_atomically
    from bam.reports.figures import channel_figures
    from bam.reports.wording import examination_lines
    from bam.training.display import track
    from bam.training.run import accelerate_afresh

    with accelerate_afresh(device) as place:
        network = opened(run, named, place)
        task, images, notes = measured(run, network, data)
        results = task.examine(network.trained, images, data.limit or None, track)
    about = {"run": str(run), "data": task.recipe.data, "part": data.part}
    files = {"examination.json": strict_json(about | results)}
    for figure in channel_figures(_selective(results["statistics"], network.trained.classes)):
        files |= figure.files
    for name, text in files.items():
        write_atomically(out / name, text)
    say([*notes, *examination_lines(results), f"{', '.join(files)} in {out}"])


def _selective(statistics: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Site -> {"classes": its most selective channels}, for sites with channel attention."""
    from bam.explanation.statistics import most_selective

    return {
        site: {"classes": values["classes"] and most_selective(values["classes"], names)}
        for site, values in statistics.items()
    }


class _Reading:
    """Reads images one by one with a progress bar, and collects a message for each that cannot be read.

    Names are unique: the file's stem, with a number if several files share it.
    """

    def __init__(self, files: Sequence[Path], *, turn: bool) -> None:
        self.turn = turn
        self.files, self.names, self.unreadable = files, list[str](), list[str]()
        for file in files:
            candidates = (file.stem if k == 1 else f"{file.stem}-{k}" for k in range(1, len(files) + 1))
            self.names.append(next(name for name in candidates if name not in self.names))

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        from bam.data.files.decoding import read_rgb
        from bam.training.display import track

        for name, file in track(list(zip(self.names, self.files, strict=True)), len(self.files), "explaining"):
            try:
                yield name, read_rgb(str(file), turn=self.turn)
            except ValueError as error:
                self.unreadable.append(f"left out: {file} cannot be read as an image: {error}")
