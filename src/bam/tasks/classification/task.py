"""The classification task."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from accelerate.utils import reduce
from torch import Tensor, nn
from torchvision.transforms import v2

from bam.costs import Cost, cost
from bam.data import BatchSource, LabelledImages, load
from bam.data.augmentation import Augmentation
from bam.data.files.listing import find_files
from bam.data.files.preprocessing import Preprocessing
from bam.data.interface import Images, Track
from bam.dryrun import Image
from bam.explanation import examine
from bam.explanation.views import ImageView
from bam.models import build, classifier_name, classifier_names
from bam.placement import BOTTLENECKS, Sites, find_bottlenecks, select_sites
from bam.recipes import ClassificationRecipe
from bam.records import CLASSES, TEST_ERROR, TEST_ERROR_TOP5, Breakdown, Record, classes_csv
from bam.surgery import attach
from bam.tasks.building import synchronized
from bam.tasks.classification.breakdown import break_down
from bam.tasks.classification.looking import look, view
from bam.tasks.classification.network import build_model, class_logits
from bam.tasks.classification.predict import classify, table, write_predictions
from bam.tasks.classification.probe import linear_probe, start_at_probe
from bam.tasks.pixels import normalization_note, pixel_normalization
from bam.tasks.task import (
    Classes,
    Evaluation,
    PredictOptions,
    Price,
    Subject,
    Task,
    Trained,
    count_classes,
)


class Classification(Task):
    """One class per image."""

    name: ClassVar[str] = "classification"
    not_predicted: ClassVar[str] = ""
    not_broken_down: ClassVar[str] = ""
    recipe: ClassificationRecipe

    def load(self, root: Path | None) -> tuple[LabelledImages, LabelledImages]:
        """(train, test), see `bam.data.load`."""
        return load(self.recipe.data, root, **self.recipe.data_options)

    def network(self, subject: Subject, *, to_train: bool = True) -> nn.Module:
        """See `build_model`."""
        (height, width), num_classes = subject.image_size, count_classes(subject)
        network = build_model(self.recipe, num_classes, (height, width), to_train=to_train)
        if to_train and self.recipe.new_classifier == "probe" and not isinstance(subject, Record | Classes):
            train = cast(LabelledImages, subject)
            start_at_probe(network.get_submodule(classifier_name(network, num_classes)), self.recipe, train)
        return synchronized(network) if to_train and self.recipe.batchnorm == "sync" else network

    def hold_out(self, train: LabelledImages) -> tuple[LabelledImages, LabelledImages | None]:
        """Hold out the recipe's share of each class, drawn by its seed."""
        if not self.recipe.validation:
            return train, None
        generator = torch.Generator().manual_seed(self.recipe.seed)
        held_out = torch.zeros(len(train), dtype=torch.bool)
        for number in range(len(train.classes)):
            members = (train.targets == number).nonzero().flatten()
            chosen = torch.randperm(len(members), generator=generator)[: round(self.recipe.validation * len(members))]
            held_out[members[chosen]] = True
        if not held_out.any():
            raise ValueError(f"validation {self.recipe.validation} holds out no image: each class has too few")
        return train.subset((~held_out).nonzero().flatten()), train.subset(held_out.nonzero().flatten())

    def new_parts(self, network: nn.Module, num_classes: int) -> list[str]:
        """The attention, and the classifier with its auxiliary heads."""
        return [*super().new_parts(network, num_classes), *classifier_names(network, num_classes)]

    def notes(self, train: Images) -> list[str]:
        """Also says how images are normalised, if that is a guess."""
        return [*super().notes(train), *normalization_note(self.recipe)]

    def prepared(self, network: nn.Module) -> nn.Module:
        """The network, compiled if the recipe asks for it."""
        if not self.recipe.compile:
            return network
        torch.compiler.reset()  # the limit on recompilations is shared by all runs of a process
        return cast(nn.Module, torch.compile(network, mode=self.recipe.compile_mode))  # typed as a function

    def normalization(self, network: nn.Module, train: LabelledImages) -> tuple[Tensor, Tensor]:
        """See `pixel_normalization`."""
        return pixel_normalization(self.recipe, train)

    def batches(
        self, data: LabelledImages, size: int, normalization: tuple[Tensor, Tensor], placement: Any
    ) -> BatchSource:
        """Batches of images and classes."""
        device, shard = placement
        recipe = self.recipe
        augmentation = Augmentation(recipe.crop_padding, recipe.flip, recipe.trivial_augment, recipe.random_erasing)
        return data.batches(size, normalization, device, augmentation=augmentation, shard=shard)

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
        network, selection = build(self.recipe.model, num_classes), self.recipe.attention.placed()
        if selection == (BOTTLENECKS,):
            return find_bottlenecks(network, image, keep=keep), ""
        return select_sites(network, selection, image), ""

    def loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of a batch, and figures: its sum over the images and the number of errors."""
        mix = _mixing(self.recipe, len(targets))
        shares = torch.arange(len(targets), device=images.device)  # after mixing: each image's share in each mixed one
        images, shares = (images, shares) if mix is None else mix(images, shares)
        logits = class_logits(network(images))
        goal = targets if mix is None else shares.float() @ F.one_hot(targets, logits.shape[1]).float()
        loss = F.cross_entropy(logits.float(), goal, label_smoothing=self.recipe.label_smoothing)
        return loss, {"loss": loss.detach() * len(targets), "error": (logits.argmax(1) != targets).sum()}

    @torch.no_grad()
    def evaluate(self, network: nn.Module, batches: BatchSource, test: LabelledImages) -> Evaluation:
        """Mean cross-entropy, top-1 and (for more than 5 classes) top-5 error over all readable images."""
        network.eval()
        device = next(network.parameters()).device
        sums, by_class = torch.zeros(3, device=device), torch.zeros(len(test.classes), 2, device=device)
        num_classes = num_images = 0
        for images, targets in batches.test():
            logits = class_logits(network(images)).float()
            loss = F.cross_entropy(logits, targets, reduction="sum")
            num_classes = logits.shape[1]
            top5_errors = (logits.topk(min(5, num_classes)).indices != targets[:, None]).all(1)
            errors = logits.argmax(1) != targets
            sums += torch.stack([loss, errors.sum(), top5_errors.sum()])
            by_class.index_add_(0, targets, torch.stack([torch.ones_like(errors), errors], dim=1).float())
            num_images += len(targets)
        totals = torch.cat([sums, torch.tensor([num_images], device=device), by_class.flatten()])
        loss_sum, error_sum, top5_error_sum, count, *counts = reduce(totals, "sum").tolist()
        figures = {"test_loss": loss_sum / count, "test_error": error_sum / count}
        if num_classes > 5:
            figures["test_error_top5"] = top5_error_sum / count
        measures = [measure for measure in (TEST_ERROR, TEST_ERROR_TOP5) if measure.key in figures]
        numbers = list(map(int, counts))
        return Evaluation(figures, measures, list(zip(numbers[::2], numbers[1::2], strict=True)))

    def results(self, evaluation: Evaluation, test: LabelledImages) -> dict[str, str]:
        """The number of test images and errors of each class."""
        return {CLASSES: classes_csv(test.classes, evaluation.output)}

    def probe(self, train: LabelledImages, test: LabelledImages) -> dict[str, float] | None:
        """The test error of `linear_probe`."""
        error = linear_probe(self.recipe, train, test)
        return None if error is None else {TEST_ERROR.key: error}

    def views(
        self, trained: Trained, images: Iterable[tuple[str, Any]], question: str | None = None
    ) -> Iterator[ImageView]:
        """The attention, and the five most likely classes with their probabilities."""
        transform = trained.preprocessing.transform()
        for name, image in images:
            yield view(trained, name, transform(image))

    def examine(self, trained: Trained, test: LabelledImages, limit: int | None, track: Track) -> dict[str, Any]:
        """Statistics, pointing (if the images have boxes), deletion and insertion, and ablations."""
        return examine(trained.network, test, trained.preprocessing.normalization, limit=limit, track=track)

    def look(self, trained: Trained, test: LabelledImages, folder: Path) -> dict[str, Any]:
        """See `bam.tasks.classification.looking.look`."""
        return look(trained, test, folder)

    def on_data(self, data: str | None, options: Mapping[str, Any], preprocessing: Preprocessing) -> Self:
        """See `Task.on_data`; drops the padding for random crops, which is for training only and refused by folders."""
        return type(self)(super().on_data(data, options, preprocessing).recipe.replace(crop_padding=0))

    def reading_options(self, data: str, options: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, Any]:
        """A folder's images are resized and cropped as the network expects them.

        Raises:
            ValueError: for a network that takes images that are not square: folders serve square ones.
        """
        if not data.startswith("folder:") or "size" in options:
            return {}
        height, width = preprocessing.image_size
        if height != width:
            raise ValueError(
                f"the network takes images of {height} x {width} pixels, but a folder serves square ones: choose their "
                """side, e.g. --data-options '{"size": 224}'"""
            )
        resize = {} if "resize" in options else {"resize": preprocessing.resize}
        return {"size": height, **resize}

    def break_down(self, network: nn.Module, batches: Iterable[Any], test: LabelledImages) -> Breakdown:
        """See `break_down`."""
        return break_down(network, batches, test.classes)

    def predict(self, trained: Trained, images: Sequence[Path], out: Path, options: PredictOptions) -> list[str]:
        """Write the most likely classes of the user's own images, see `write_predictions`.

        Raises:
            ValueError: for a minimum score, which is for detections; also the errors of `find_files` and `classify`.
        """
        if options.score is not None:
            raise ValueError("a score is for detections: a classifier's predictions are written with their probability")
        files, notes = find_files(images)
        predictions, unreadable = classify(trained, files, options.track)
        write_predictions(predictions, out)
        return [
            *table(predictions),
            *(f"left out: {file} {problem}" for file, problem in unreadable),
            *notes,
            f"predictions.csv and predictions.json in {out}",
        ]

    def describe(self, row: Mapping[str, float]) -> str:
        """Training loss and error."""
        return f"train loss {row['train_loss']:.3f} error {100 * row['train_error']:.2f} %"


def _mixing(recipe: ClassificationRecipe, size: int) -> v2.Transform | None:
    """Mixup, CutMix, or a random choice of the two, for batches of `size` images whose numbers are their classes."""
    kinds = [(v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix)]
    transforms = [kind(alpha=alpha, num_classes=size) for kind, alpha in kinds if alpha]
    return v2.RandomChoice(transforms) if transforms else None
