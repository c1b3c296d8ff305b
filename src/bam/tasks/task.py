"""What a task is: everything that the training loop and the commands do not know about it."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from bam.costs import Cost
from bam.data import BatchSource
from bam.data.interface import Images
from bam.dryrun import Image
from bam.placement import Sites
from bam.recipes import Recipe
from bam.records import Measure, Record


@dataclass(frozen=True)
class Classes:
    """So many classes, in images of this height and width."""

    num_classes: int
    image_size: tuple[int, int] = (224, 224)
    classes: tuple[str, ...] = ()


#: What a network is built for: a data set, the record of a run on one, or a number of classes.
Subject = Images | Record | Classes


class Price(NamedTuple):
    """What a network costs: without attention, with the attention of its recipe (if any), and for which images."""

    plain: Cost
    attended: Cost | None
    conditions: str = ""  #: the number of classes and the size, where the task chooses them


@dataclass(frozen=True)
class Evaluation:
    """What came of the test images."""

    figures: dict[str, float]  #: the measures, and what else is worth keeping; names begin with "test_"
    measures: list[Measure]  #: by which networks are compared, the first decides
    output: Any = field(default=None, repr=False)  #: what `Task.results` needs besides


class Task(abc.ABC):
    """A kind of training. It holds its recipe and keeps nothing else between calls."""

    name: ClassVar[str]
    #: Whether there are pictures of what its networks do.
    illustrates: ClassVar[bool] = False
    #: Why `bam export` takes no network of this task, and `bam predict` none; empty where they do.
    not_exported: ClassVar[str] = ""
    not_predicted: ClassVar[str] = "bam predict has nothing to show for it"

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @classmethod
    def knows(cls, model: str) -> bool:
        """Whether `model` is the name of a network that this task alone builds."""
        return False

    @classmethod
    def catalogue(cls) -> list[str]:
        """A heading and a line for each network that this task alone builds."""
        return []

    @abc.abstractmethod
    def load(self, root: Path | None) -> tuple[Any, Any]:
        """The data for training and for testing."""

    @abc.abstractmethod
    def network(self, subject: Subject, *, to_train: bool = True) -> nn.Module:
        """The recipe's network with its attention, on which its other initial weights do not depend.

        Without `to_train` weights will be loaded into it: pretrained ones need not be there, nothing is frozen.
        """

    def prepared(self, network: nn.Module) -> nn.Module:
        """The network as the loop calls it, compiled, say."""
        return network

    @abc.abstractmethod
    def normalization(self, network: nn.Module, train: Any) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel that images are normalised by, 0 to 255: float32 (3,) each."""

    @abc.abstractmethod
    def batches(self, data: Any, size: int, normalization: tuple[Tensor, Tensor], placement: Any) -> BatchSource:
        """The images of `data` in batches of `size` over all processes together, placed as `bam.data` says."""

    @abc.abstractmethod
    def cost(self, network: nn.Module, image_size: tuple[int, int]) -> Cost:
        """Parameters, and multiply-adds for one image."""

    @abc.abstractmethod
    def price(self, num_classes: int | None, image: Image | None) -> Price:
        """What the recipe's network costs without and with its attention; None are the network's own."""

    @abc.abstractmethod
    def sites(self, num_classes: int | None, image: Image | None, keep: int) -> tuple[Sites, str]:
        """Where the recipe's attention would go, of its bottlenecks the last `keep`; and a remark, or ""."""

    @abc.abstractmethod
    def loss(self, network: nn.Module, images: Any, targets: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and figures to show by name, summed over the images; the first is the loss."""

    @abc.abstractmethod
    def evaluate(self, network: nn.Module, batches: BatchSource, test: Any) -> Evaluation:
        """Try the network on the test images, over all processes."""

    @abc.abstractmethod
    def describe(self, row: Mapping[str, float]) -> str:
        """The training figures of an epoch in a few words."""

    def results(self, evaluation: Evaluation, test: Any) -> dict[str, str]:
        """What belongs beside the weights of a complete run: name of a file -> its content."""
        return {}

    def illustrate(self, networks: Mapping[str, nn.Module], test: Any, folder: Path) -> list[dict[str, str]]:
        """Write pictures of what networks do with the same test images; name of the file and caption of each."""
        return []

    def predict(
        self, network: nn.Module, classes: Sequence[str], images: Sequence[Path], out: Path, score: float
    ) -> list[str]:
        """Write what the network finds in images into `out`; a line for each image.

        Raises:
            ValueError: if there is a reason in `not_predicted`.
        """
        raise ValueError(self.not_predicted)


def count_classes(subject: Subject) -> int:
    """How many classes there are to tell apart."""
    if isinstance(subject, Record | Classes) and not subject.classes:
        return subject.num_classes
    return len(subject.classes)
