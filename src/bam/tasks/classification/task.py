"""Classification: cross-entropy, top-1 and top-5 error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from bam.costs import Cost, cost
from bam.data import BatchSource, LabelledImages, load
from bam.recipes import Recipe
from bam.records import TEST_ERROR, TEST_ERROR_TOP5, Measure
from bam.tasks.classification.network import build_model, statistics


class Classification:
    """One class an image; see `bam.tasks.task.Task`."""

    illustrates = False

    def __init__(self, recipe: Recipe) -> None:
        self.label_smoothing = recipe.label_smoothing

    def load(self, recipe: Recipe, root: str | Path | None) -> tuple[LabelledImages, LabelledImages]:
        """(train, test), see `bam.data.load`."""
        return load(recipe.data, root, **recipe.data_options)

    def model(self, recipe: Recipe, data: Any, *, to_train: bool = True) -> nn.Module:
        """See `build_model`."""
        height, width = data.image_size
        return build_model(recipe, len(data.classes) or data.num_classes, (height, width), to_train=to_train)

    def normalization(self, recipe: Recipe, model: nn.Module, train: LabelledImages) -> tuple[Tensor, Tensor]:
        """See `statistics`."""
        return statistics(recipe, train)

    def batches(
        self,
        recipe: Recipe,
        data: LabelledImages,
        size: int,
        normalized_by: tuple[Tensor, Tensor],
        device: torch.device,
        shard: tuple[int, int],
    ) -> BatchSource:
        """Images and classes in batches."""
        return data.batches(
            size, normalized_by, device, crop_padding=recipe.crop_padding, flip=recipe.flip, shard=shard
        )

    def cost(self, model: nn.Module, image_size: tuple[int, int]) -> Cost:
        """See `bam.cost`."""
        return cost(model, image_size)

    def loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of a batch; its sum over the images, and the number of errors."""
        logits = _logits(model(images))
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)
        return loss, {"loss": loss.detach() * len(targets), "error": (logits.argmax(1) != targets).sum()}

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, batches: BatchSource, accelerator: Accelerator, test: LabelledImages
    ) -> dict[str, float]:
        """Mean cross-entropy, top-1 and (of more than 5 classes) top-5 error over all images that can be read."""
        model.eval()
        sums = torch.zeros(3, device=accelerator.device)
        classes = seen = 0
        for image, target in batches.test():
            logits = _logits(model(image)).float()
            loss = F.cross_entropy(logits, target, reduction="sum")
            classes = logits.shape[1]
            missed = (logits.topk(min(5, classes)).indices != target[:, None]).all(1)
            sums += torch.stack([loss, (logits.argmax(1) != target).sum(), missed.sum()])
            seen += len(target)
        total = torch.cat([sums, torch.tensor([seen], device=sums.device)])
        loss_sum, errors, missed_sum, images = accelerator.reduce(total, "sum").tolist()
        found = {"test_loss": loss_sum / images, "test_error": errors / images}
        return found | ({"test_error_top5": missed_sum / images} if classes > 5 else {})

    def measures(self, row: dict[str, float]) -> list[Measure]:
        """Top-1 error, and top-5 error where there is one."""
        return [measure for measure in (TEST_ERROR, TEST_ERROR_TOP5) if measure.key in row]

    def describe(self, row: dict[str, float]) -> str:
        """Losses and errors."""
        told = f"train loss {row['train_loss']:.3f} error {100 * row['train_error']:.2f} %"
        return told + (f"  test error {100 * row['test_error']:.2f} %" if "test_error" in row else "")

    def finish(self, out: Path, model: nn.Module, batches: BatchSource, accelerator: Accelerator, test: Any) -> None:
        """Nothing is left to write."""

    def illustrate(self, models: Mapping[str, nn.Module], test: Any, folder: Path) -> list[dict[str, str]]:
        """There are no pictures of classification."""
        return []


def _logits(output: Any) -> Tensor:
    """The class logits (N, num_classes) of a network's output; GoogLeNet's and Inception's auxiliary ones are left."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        what = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"the network returns {what}, and no class logits (N, classes): it is no classifier of images")
    return logits
