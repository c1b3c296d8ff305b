"""The task interface: everything the training loop and the commands leave to a task."""

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from bam.costs import Cost
from bam.data import BatchSource
from bam.data.interface import Images, Track, untracked
from bam.dryrun import Image
from bam.explanation.views import ImageView
from bam.placement import Sites
from bam.recipes import Recipe
from bam.records import Breakdown, Measure, Record
from bam.surgery import attended

if TYPE_CHECKING:
    from bam.data.files.preprocessing import Preprocessing


@dataclass(frozen=True)
class Classes:
    """A number of classes and an image size (height, width)."""

    num_classes: int
    image_size: tuple[int, int] = (224, 224)
    classes: tuple[str, ...] = ()


_NUM_NAMED = 5  # classes in a message

#: What a network is built for: a data set, the record of a run, or a number of classes.
Subject = Images | Record | Classes


class Price(NamedTuple):
    """The cost of a network without attention, and with its recipe's attention (if any)."""

    plain: Cost
    attended: Cost | None
    conditions: str = ""  #: number of classes and image size, if the task chooses them


@dataclass(frozen=True)
class Evaluation:
    """Results on the test images."""

    figures: dict[str, float]  #: the measures and other results worth keeping; names begin with "test_"
    measures: list[Measure]  #: used to compare networks; the first decides
    output: Any = field(default=None, repr=False)  #: extra data for `Task.results`


@dataclass(frozen=True)
class Trained:
    """A trained network and what it needs to be used."""

    network: nn.Module  #: in eval mode, in float32, on `device`
    classes: tuple[str, ...]  #: names of the classes; empty if they have none
    preprocessing: "Preprocessing"  #: for classifiers; detectors resize and normalise images themselves
    device: torch.device = torch.device("cpu")

    @classmethod
    def ready(
        cls, network: nn.Module, classes: Sequence[str] | None, preprocessing: "Preprocessing", device: torch.device
    ) -> "Trained":
        """The network in float32 and eval mode on `device`, changed in place."""
        network = network.eval().float().to(device).to(memory_format=torch.channels_last)
        return cls(network, tuple(classes or ()), preprocessing, device)


@dataclass(frozen=True)
class PredictOptions:
    """Options of `Task.predict`."""

    score: float | None = None  #: minimum score of a detection; None for the default
    track: Track = untracked  #: may show progress
    question: str | None = None  #: the question to answer, for tasks that answer questions


class Task(abc.ABC):
    """A kind of training. It holds its recipe and no other state between calls."""

    name: ClassVar[str]
    #: Whether `illustrate` writes pictures.
    illustrates: ClassVar[bool] = False
    #: Whether its networks answer questions about images.
    asks: ClassVar[bool] = False
    #: Why `bam export`, `bam explain` (by name with weights) and `bam predict` refuse this task's networks; empty if
    #: they accept them.
    not_exported: ClassVar[str] = ""
    not_named: ClassVar[str] = ""
    not_predicted: ClassVar[str] = "bam predict does not support this task"
    #: Why `bam evaluate` refuses them.
    not_broken_down: ClassVar[str] = "bam evaluate does not support this task"

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @classmethod
    def catalogue(cls) -> list[str]:
        """A heading, then one line per network that only this task can build."""
        return []

    @abc.abstractmethod
    def load(self, root: Path | None) -> tuple[Any, Any]:
        """The training data and the test data."""

    def vocabulary(self, train: Any) -> list[str]:
        """The words that the network knows, which its record keeps; empty for tasks without questions."""
        return []

    @abc.abstractmethod
    def network(self, subject: Subject, *, to_train: bool = True) -> nn.Module:
        """The recipe's network with its attention; the backbone's initial weights do not depend on the attention.

        Pass `to_train=False` if you will load weights into it: pretrained weights are not read and nothing is frozen.
        """

    def hold_out(self, train: Any) -> tuple[Any, Any]:
        """Split the training images into those to learn from and those held out to choose the best epoch, or None."""
        return train, None

    def new_parts(self, network: nn.Module, num_classes: int) -> list[str]:
        """Names of the modules that are new in a pretrained network; the recipe's `new_lr` applies to them."""
        return [f"{label.removeprefix('before ')}.attention" for label in attended(network)]

    def notes(self, train: Images) -> list[str]:
        """Notes for the user when a run begins: those of the data set, and automatic choices."""
        return list(train.notes)

    def prepared(self, network: nn.Module) -> nn.Module:
        """The network the training loop calls, e.g. compiled."""
        return network

    @abc.abstractmethod
    def normalization(self, network: nn.Module, train: Any) -> tuple[Tensor, Tensor]:
        """Per-channel mean and standard deviation for normalising images, on the scale 0 to 255: float32 (3,) each."""

    @abc.abstractmethod
    def batches(self, data: Any, size: int, normalization: tuple[Tensor, Tensor], placement: Any) -> BatchSource:
        """The images of `data` in batches of `size`, counted over all processes.

        `placement` is the device and this process's (index, number of processes).
        """

    @abc.abstractmethod
    def cost(self, network: nn.Module, image_size: tuple[int, int]) -> Cost:
        """Parameters and multiply-adds per image."""

    @abc.abstractmethod
    def price(self, num_classes: int | None, image: Image | None) -> Price:
        """The cost of the recipe's network with and without attention; None means the network's own default."""

    @abc.abstractmethod
    def sites(self, num_classes: int | None, image: Image | None, keep: int) -> tuple[Sites, str]:
        """The sites of the recipe's attention (by default the last `keep` bottlenecks), and a remark or ""."""

    @abc.abstractmethod
    def loss(self, network: nn.Module, images: Any, targets: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and named figures to show, summed over the images; the first is the loss."""

    @abc.abstractmethod
    def evaluate(self, network: nn.Module, batches: BatchSource, test: Any) -> Evaluation:
        """Evaluate the network on the test images, over all processes."""

    @abc.abstractmethod
    def describe(self, row: Mapping[str, float]) -> str:
        """A short summary of an epoch's training figures."""

    def probe(self, train: Any, test: Any) -> dict[str, float] | None:
        """Measure -> result of a simple model that does not train the network; None if there is none."""
        return None

    def results(self, evaluation: Evaluation, test: Any) -> dict[str, str]:
        """Files to write beside the weights of a complete run: file name -> content."""
        return {}

    def illustrate(self, networks: Mapping[str, nn.Module], test: Any, folder: Path) -> list[dict[str, str]]:
        """Draw the networks' output on the same test images; returns the file name and caption of each picture."""
        return []

    def look(self, trained: Trained, test: Any, folder: Path) -> dict[str, Any] | None:
        """What the attention of a trained network does on test images, as plain data; pictures go into `folder`.

        Returns: "views" (see `bam.reports.gallery`), "pictures" (file name and caption of each), and some of the parts
        of `bam.explanation.examine`; None if the task does not support this.
        """
        return None

    def examine(self, trained: Trained, test: Any, limit: int | None, track: Track) -> Any:
        """Measure what the attention does on labelled images, see `bam.explanation.examine`.

        Raises:
            ValueError: if the task does not support this.
        """
        raise ValueError(f"bam examine is for classifiers, and this is a {self.name} network")

    def numbered(self, images: Any, trained: Trained) -> Any:
        """The images of a data set with classes numbered as in the network.

        Raises:
            ValueError: if they have classes that the network does not know.
        """
        unknown = [name for name in images.classes if name not in trained.classes]
        if unknown:
            raise ValueError(
                f"{self.recipe.data} has classes that the network does not know, {_names(unknown)}; it knows "
                f"{_names(trained.classes)}: rename them, or leave them out"
            )
        return images.renumbered(trained.classes)

    @property
    def turns(self) -> bool:
        """Whether photographs are read as EXIF turns them for display, not as they are stored."""
        return False

    def attends(self, network: nn.Module) -> bool:
        """Whether the network has attention that `look` can show."""
        return bool(attended(network))

    def views(
        self, trained: Trained, images: Iterable[tuple[str, Any]], question: str | None = None
    ) -> Iterator[ImageView]:
        """What the network's attention does in each of `images`, (name, PIL image) pairs, and what it predicts.

        Args:
            trained: the network.
            images: to look at.
            question: about each of them, for tasks that ask (see `asks`).

        Raises:
            ValueError: if the network has no attention, or the task does not support this.
        """
        raise ValueError(f"bam explain does not support the task {self.name}")

    def unknown_words(self, trained: Trained, question: str) -> list[str]:
        """The words of a question that did not occur in training, for tasks that ask (see `asks`)."""
        return []

    def on_data(self, data: str | None, options: Mapping[str, Any], preprocessing: "Preprocessing") -> Self:
        """The same task on other data; None means the recipe's own.

        The recipe's data options apply to its own data only; other data is read as the network expects it.
        """
        name = self.recipe.data if data is None else data
        defaults = self.recipe.data_options
        if name != self.recipe.data:
            defaults = self.reading_options(name, options, preprocessing)
        return type(self)(self.recipe.replace(data=name, data_options={**defaults, **options}))

    def reading_options(self, data: str, options: Mapping[str, Any], preprocessing: "Preprocessing") -> dict[str, Any]:
        """Data options, besides `options`, that make the data set `data` serve images as a network expects them."""
        return {}

    def break_down(self, network: nn.Module, batches: Iterable[Any], test: Any) -> Breakdown:
        """Results on the test images that `batches` serves, in total and by class; for a single process.

        Raises:
            ValueError: if the task does not support this (see `not_broken_down`).
        """
        raise ValueError(self.not_broken_down)

    def predict(self, trained: Trained, images: Sequence[Path], out: Path, options: PredictOptions) -> list[str]:
        """Write predictions for `images` into `out`; returns lines to print.

        Raises:
            ValueError: if the task does not support prediction (see `not_predicted`).
        """
        raise ValueError(self.not_predicted)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(map(repr, names[:_NUM_NAMED])) + more


def count_classes(subject: Subject) -> int:
    """The number of classes of a subject."""
    if isinstance(subject, Record | Classes) and not subject.classes:
        return subject.num_classes
    return len(subject.classes)
