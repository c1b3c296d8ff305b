"""What a network is trained for: everything that the loop does not know about it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bam.costs import Cost
from bam.data import BatchSource
from bam.recipes import Recipe
from bam.records import Measure


class Task(Protocol):
    """A kind of training: its data, network, losses, and the measures by which results are compared."""

    illustrates: bool  #: whether there are pictures of what its networks do

    def load(self, recipe: Recipe, root: str | Path | None) -> tuple[Any, Any]:
        """The data for training and for testing."""

    def model(self, recipe: Recipe, data: Any, *, to_train: bool = True) -> nn.Module:
        """The recipe's network with its attention; the other initial weights do not depend on the attention.

        With `to_train` False weights will be loaded into it: pretrained ones need not be there, nothing is frozen.
        `data` has `classes` and `image_size`: a data set, or the record of a run on one.
        """

    def normalization(self, recipe: Recipe, model: nn.Module, train: Any) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel that images are normalised by, 0 to 255: float32 (3,) each."""

    def batches(
        self,
        recipe: Recipe,
        data: Any,
        size: int,
        normalized_by: tuple[Tensor, Tensor],
        device: torch.device,
        shard: Any,
    ) -> BatchSource:
        """The images of `data` in batches of `size` over all processes together."""

    def cost(self, model: nn.Module, image_size: tuple[int, int]) -> Cost:
        """Parameters, and multiply-adds for one image."""

    def loss(self, model: nn.Module, images: Any, targets: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and figures to show by name, summed over the images; the first is the loss."""

    def evaluate(self, model: nn.Module, batches: BatchSource, accelerator: Accelerator, test: Any) -> dict[str, float]:
        """What came of the test images: the measures, and what else is worth keeping; names begin with "test_"."""

    def measures(self, row: dict[str, float]) -> list[Measure]:
        """What to compare networks by, of what `evaluate` has found; the first decides."""

    def describe(self, row: dict[str, float]) -> str:
        """The figures of an epoch in a few words; those of the test are there only where it was evaluated."""

    def finish(self, out: Path, model: nn.Module, batches: BatchSource, accelerator: Accelerator, test: Any) -> None:
        """Write into `out` what belongs beside the weights of a complete run."""

    def illustrate(self, models: Mapping[str, nn.Module], test: Any, folder: Path) -> list[dict[str, str]]:
        """Write pictures of what networks do with the same test images; name of the file and caption of each."""


def task_of(recipe: Recipe) -> Task:
    """The task of a recipe."""
    if recipe.task == "detection":
        from bam.tasks.detection.task import Detection  # it needs torchvision's detectors and faster_coco_eval

        return Detection(recipe)
    from bam.tasks.classification.task import Classification

    return Classification(recipe)
