"""The verbs predict and evaluate: use a trained network, and measure it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bam.cli.named import NOTHING_NAMED, NamedNetwork
from bam.cli.opening import Opened, check_question, opened

if TYPE_CHECKING:
    from bam.data.interface import Images
    from bam.tasks import Task

_LARGEST_BATCH = 64


@dataclass(frozen=True)
class LabelledData:
    """The labelled data to evaluate on.

    Attributes:
        data: data set for the run's task, e.g. folder:PATH (default: the run's own).
        data_options: options of the data set as JSON, added to the run's own options if it is the run's data set.
            Images from folders are resized and cropped as the network expects.
        part: use the test images, the training images, or both.
        data_root: folder of the data (default: $BAM_DATA, or data).
    """

    data: str | None = None
    data_options: dict[str, Any] = field(default_factory=dict)
    part: Literal["test", "train", "all"] = "test"
    data_root: Path | None = None


@dataclass(frozen=True)
class Asked:
    """Options of a prediction.

    Attributes:
        score: minimum score of a detection (default: 0.3).
        question: question to ask about each image, for networks that answer questions: "how many 3s are there".
    """

    score: float | None = None
    question: str | None = None


def predict(
    run: Path,
    images: list[str],
    out: Path = Path("predictions"),
    asked: Asked = Asked(),
    named: NamedNetwork = NOTHING_NAMED,
    device: str | None = None,
) -> None:
    """Predict the classes of your own images, detect objects in them, or answer a question about them.

    A classifier writes its five most likely classes with their probabilities to predictions.csv and predictions.json. A
    detector writes pictures with its boxes, and predictions.json. Answers go to predictions.json. Images are prepared
    like the network's test images; EXIF orientation is applied only if a detector's data options ask for it. Images
    that cannot be read are named and skipped.

    Args:
        run: folder of a complete run or of a network saved by bam export, or the name of a network (see `bam models`).
        images: one or more files or folders.
        out: folder for the results.
        device: cpu or cuda (default: a GPU if there is one).
    """
    from bam.tasks import PredictOptions
    from bam.training.display import track
    from bam.training.run import accelerate_afresh

    with accelerate_afresh(device) as place:
        task, trained, _, notes = opened(run, named, place)
        _refuse(run, task, task.not_predicted)
        notes += check_question(run, task, trained, asked.question)
        files = [Path(image) for image in images if image]
        options = PredictOptions(asked.score, track, asked.question)
        say([*task.predict(trained, files, out, options), *notes])


def evaluate(
    run: Path,
    out: Path = Path("evaluation"),
    data: LabelledData = LabelledData(),
    named: NamedNetwork = NOTHING_NAMED,
    device: str | None = None,
) -> None:
    """Measure a trained network on labelled data, overall with intervals and class by class.

    Writes evaluation.json, evaluation.csv (one row per class) and, for classifiers, confusion.csv. Errors have Wilson
    95 % intervals. The data may lack some of the network's classes but must not have others. Runs in float32.

    Args:
        run: folder of a complete run or of a network saved by bam export, or the name of a network (see `bam models`).
        out: folder for the results.
        device: cpu or cuda (default: a GPU if there is one).
    """
    from bam.reports import evaluation_lines, write_evaluation
    from bam.training.display import track
    from bam.training.run import accelerate_afresh

    with accelerate_afresh(device) as place:
        network = opened(run, named, place)
        _refuse(run, network.task, network.task.not_broken_down)
        task, test, notes = measured(run, network, data)
        trained = network.trained
        size = min(task.recipe.batch_size // task.recipe.accumulation, _LARGEST_BATCH)
        batches = task.batches(test, size, trained.preprocessing.normalization, (place, (0, 1)))
        tracked = track(batches.test(), -(-len(test) // size), "evaluating")
        breakdown = task.break_down(trained.network, tracked, test)
        unreadable = batches.take_unreadable()
    about: dict[str, Any] = {
        "run": str(run),
        "task": task.name,
        "data": task.recipe.data,
        "data_options": task.recipe.data_options,
    }
    about |= {"part": data.part, "part_in_words": test.part, "unreadable": unreadable.count, "device": str(place)}
    files = write_evaluation(out, breakdown, about)
    if unreadable.count:
        notes.append(f"unreadable images: {unreadable.count}, e.g. {unreadable.example}")
    where = _part_in_words(data.part, test.part)
    head = f"{run} on {task.recipe.data}, {where}: {breakdown.num_images} images"
    say([head, *notes, *evaluation_lines(breakdown), f"{', '.join(files[:-1])} and {files[-1]} in {out}"])


def _refuse(run: Path, task: "Task", reason: str) -> None:
    if reason:
        raise ValueError(f"{run} is a {task.name} network: {reason}")


def measured(run: Path, network: Opened, data: LabelledData) -> "tuple[Task, Images, list[str]]":
    """The task on the data to measure on, the images with classes numbered like the network's, and notes for the user.

    Raises:
        ValueError: if no data are given and the network has none of its own, or the data have classes it lacks.
    """
    from bam.training.identity import fingerprint

    trained, record = network.trained, network.record
    if record is None and data.data is None:
        raise ValueError(f"{run} is not a run and has no data of its own: give --data, e.g. folder:PATH")
    task = network.task.on_data(data.data, data.data_options, trained.preprocessing)
    train, test = task.load(data.data_root)
    images: Images = {"test": lambda: test, "train": lambda: train, "all": lambda: train.joined(test)}[data.part]()
    notes = [*network.notes, *images.notes]
    own = record is not None and task.recipe.data == record.recipe["data"]
    if own and record is not None and record.data and record.data != fingerprint(train, test):
        notes.append("these are not the run's images: files, classes or options have changed since")
    return task, task.numbered(images, trained) if trained.classes else images, notes


def _part_in_words(part: str, details: str) -> str:
    words = {"test": "test images", "train": "training images", "all": "all images"}[part]
    return f"{words} ({details})" if details else words


def say(lines: Iterable[str]) -> None:
    """Print lines, with escapes for undecodable bytes in file names."""
    for line in lines:
        print(line.encode(errors="backslashreplace").decode())
