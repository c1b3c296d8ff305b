"""The classification task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from accelerate.utils import reduce
from torch import Tensor, nn

from bam.costs import Cost, cost
from bam.data import BatchSource, LabelledImages, load
from bam.dryrun import Image
from bam.models import build
from bam.placement import Sites, find_bottlenecks, select_sites
from bam.recipes import ClassificationRecipe
from bam.records import TEST_ERROR, TEST_ERROR_TOP5
from bam.surgery import attach
from bam.tasks.classification.network import build_model, pixel_normalization
from bam.tasks.task import Evaluation, Price, Subject, Task, count_classes


class Classification(Task):
    """One class per image."""

    name: ClassVar[str] = "classification"
    not_predicted: ClassVar[str] = (
        "predict draws boxes; to predict classes, use bam export --run RUN --out FOLDER, then "
        "bam.export.from_pretrained and preprocessing"
    )
    recipe: ClassificationRecipe

    def load(self, root: Path | None) -> tuple[LabelledImages, LabelledImages]:
        """(train, test), see `bam.data.load`."""
        return load(self.recipe.data, root, **self.recipe.data_options)

    def network(self, subject: Subject, *, to_train: bool = True) -> nn.Module:
        """See `build_model`."""
        height, width = subject.image_size
        return build_model(self.recipe, count_classes(subject), (height, width), to_train=to_train)

    def prepared(self, network: nn.Module) -> nn.Module:
        """The network, compiled if the recipe asks for it."""
        if not self.recipe.compile:
            return network
        torch.compiler.reset()  # the limit on recompilations is shared by all runs of a process
        return torch.compile(network, mode=self.recipe.compile_mode)  # type: ignore[return-value]  # it is a module too

    def normalization(self, network: nn.Module, train: LabelledImages) -> tuple[Tensor, Tensor]:
        """See `pixel_normalization`."""
        return pixel_normalization(self.recipe, train)

    def batches(
        self, data: LabelledImages, size: int, normalization: tuple[Tensor, Tensor], placement: Any
    ) -> BatchSource:
        """Batches of images and classes."""
        device, shard = placement
        recipe = self.recipe
        return data.batches(
            size, normalization, device, crop_padding=recipe.crop_padding, flip=recipe.flip, shard=shard
        )

    def cost(self, network: nn.Module, image_size: tuple[int, int]) -> Cost:
        """See `bam.cost`."""
        return cost(network, image_size)

    def price(self, num_classes: int | None, image: Image | None) -> Price:
        """The cost, counted without data; by default for the network's own number of classes and image size."""
        network = build(self.recipe.model, num_classes)
        plain = cost(network, image)
        if self.recipe.attention.is_none:
            return Price(plain, None)
        return Price(plain, cost(attach(network, self.recipe.attention, image=image), image))

    def sites(self, num_classes: int | None, image: Image | None, keep: int) -> tuple[Sites, str]:
        """The bottlenecks, or the sites of the recipe's attention."""
        network, selection = build(self.recipe.model, num_classes), self.recipe.attention.sites
        if selection is None:
            return find_bottlenecks(network, image, keep=keep), ""
        return select_sites(network, selection, image), ""

    def loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of a batch, and figures: its sum over the images and the number of errors."""
        logits = _logits(network(images))
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)
        return loss, {"loss": loss.detach() * len(targets), "error": (logits.argmax(1) != targets).sum()}

    @torch.no_grad()
    def evaluate(self, network: nn.Module, batches: BatchSource, test: LabelledImages) -> Evaluation:
        """Mean cross-entropy, top-1 and (for more than 5 classes) top-5 error over all readable images."""
        network.eval()
        sums = torch.zeros(3, device=next(network.parameters()).device)
        num_classes = num_images = 0
        for images, targets in batches.test():
            logits = _logits(network(images)).float()
            loss = F.cross_entropy(logits, targets, reduction="sum")
            num_classes = logits.shape[1]
            top5_errors = (logits.topk(min(5, num_classes)).indices != targets[:, None]).all(1)
            sums += torch.stack([loss, (logits.argmax(1) != targets).sum(), top5_errors.sum()])
            num_images += len(targets)
        totals = torch.cat([sums, torch.tensor([num_images], device=sums.device)])
        loss_sum, error_sum, top5_error_sum, count = reduce(totals, "sum").tolist()
        figures = {"test_loss": loss_sum / count, "test_error": error_sum / count}
        if num_classes > 5:
            figures["test_error_top5"] = top5_error_sum / count
        return Evaluation(figures, [measure for measure in (TEST_ERROR, TEST_ERROR_TOP5) if measure.key in figures])

    def describe(self, row: Mapping[str, float]) -> str:
        """Training loss and error."""
        return f"train loss {row['train_loss']:.3f} error {100 * row['train_error']:.2f} %"


def _logits(output: Any) -> Tensor:
    """The class logits (N, num_classes) in a network's output; drops the auxiliary ones of GoogLeNet and Inception."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        what = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"the network returns {what}, not class logits (N, classes): it is not an image classifier")
    return logits
