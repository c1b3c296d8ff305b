"""Detection as a task of training: `bam.tasks.task.Task`."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from torch import Tensor

from bam.costs import Cost
from bam.data import BatchSource, BoxDataset, load_boxes
from bam.files import write_atomically
from bam.recipes import Recipe
from bam.records import Measure, Record
from bam.tasks.detection.build import build_detector
from bam.tasks.detection.cost import detector_cost
from bam.tasks.detection.detectors import DetectorModule
from bam.tasks.detection.gallery import write_gallery
from bam.tasks.detection.metrics import (
    Detections,
    coco_ground_truth,
    coco_metrics,
    coco_results,
    mean_average_precision,
    voc_average_precision,
)

DETECTIONS, GROUND_TRUTH = "detections.json", "ground_truth.json"

_AP = "mean average precision over classes and IoU thresholds from 0.5 to 0.95 (COCO)"
_MEASURES = {
    "test_voc07": Measure("test_voc07", "VOC07 mAP", "mean average precision at IoU 0.5, 11 points (VOC 2007)", True),
    "test_voc12": Measure("test_voc12", "VOC12 mAP", "the same, area under the curve (VOC 2010 and later)", True),
    "test_ap": Measure("test_ap", "AP", _AP, True),
    "test_ap50": Measure("test_ap50", "AP50", "at IoU 0.5", True),
    "test_ap75": Measure("test_ap75", "AP75", "at IoU 0.75", True),
    "test_ap_small": Measure("test_ap_small", "APs", "of objects below 32 x 32 pixels", True),
    "test_ap_medium": Measure("test_ap_medium", "APm", "of objects up to 96 x 96 pixels", True),
    "test_ap_large": Measure("test_ap_large", "APl", "of larger objects", True),
    "test_ar100": Measure("test_ar100", "AR", "mean recall with up to 100 detections an image (COCO)", True),
}
#: The names of those that are reported, by the protocol of the data; the first decides.
_REPORTED = {
    "voc": ("test_voc07", "test_voc12", "test_ap", "test_ap50", "test_ap75"),
    "coco": tuple(key for key in _MEASURES if not key.startswith("test_voc")),
}


class Detection:
    """Boxes and their classes; see `bam.tasks.task.Task`."""

    illustrates = True

    def __init__(self, recipe: Recipe) -> None:
        self.protocol = "coco"  #: of the data that were loaded
        self.found: list[Detections] | None = None  #: on the test images, of the last evaluation

    def load(self, recipe: Recipe, root: str | Path | None) -> tuple[BoxDataset, BoxDataset]:
        """(train, test), see `bam.data.load_boxes`."""
        train, test = load_boxes(recipe.data, root, **recipe.data_options)
        if not any((~objects.ignored).any() for objects in test.objects):
            raise ValueError(f"{recipe.data}: the {len(test)} test images hold no object that could be found")
        self.protocol = test.protocol
        return train, test

    def model(self, recipe: Recipe, data: Any, *, to_train: bool = True) -> DetectorModule:
        """See `build_detector`."""
        if recipe.normalization == "frozen" and recipe.backbone is None and recipe.pretrained is None:
            raise ValueError(
                "normalization frozen would keep BatchNorms that have seen nothing: give backbone or pretrained, too"
            )
        count = len(data.classes) or data.num_classes
        model = build_detector(recipe, count, to_train=to_train, num_processes=PartialState().num_processes)
        if isinstance(data, Record):
            model.transform.image_mean = data.normalization["mean"]
            model.transform.image_std = data.normalization["std"]
        return model

    def normalization(self, recipe: Recipe, model: DetectorModule, train: BoxDataset) -> tuple[Tensor, Tensor]:
        """What the detector itself normalises images by: that of its weights, or else ImageNet's."""
        return 255 * torch.tensor(model.transform.image_mean), 255 * torch.tensor(model.transform.image_std)

    def batches(
        self,
        recipe: Recipe,
        data: BoxDataset,
        size: int,
        normalized_by: tuple[Tensor, Tensor],
        device: torch.device,
        shard: tuple[int, int],
    ) -> BatchSource:
        """Images from 0 to 1, which the detector normalises and resizes itself, with their boxes."""
        return data.batches(size, device, shard=shard)

    def cost(self, model: DetectorModule, image_size: tuple[int, int]) -> Cost:
        """See `detector_cost`; images are resized by the detector, whatever their size."""
        return detector_cost(model)

    def loss(
        self, model: DetectorModule, images: list[Tensor], targets: list[dict[str, Any]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the detector's losses; that and each of them, times the number of images."""
        wanted = [{"boxes": target["boxes"], "labels": target["labels"]} for target in targets]
        losses = {f"loss_{name.removeprefix('loss_')}": loss.float() for name, loss in model(images, wanted).items()}
        loss = torch.stack(list(losses.values())).sum()
        return loss, {name: value.detach() * len(images) for name, value in ({"loss": loss} | losses).items()}

    def evaluate(
        self, model: DetectorModule, batches: BatchSource, accelerator: Accelerator, test: BoxDataset
    ) -> dict[str, float]:
        """COCO's metrics and both rules of VOC, as shares of 1; those that the data cannot tell are left out."""
        self.found = found = detect(model, batches, len(test))
        per_class = {
            "voc07": voc_average_precision(test.objects, found, len(test.classes), rule="11 points"),
            "voc12": voc_average_precision(test.objects, found, len(test.classes), rule="area"),
        }
        values = {name: mean_average_precision(of_classes) for name, of_classes in per_class.items()}
        values |= coco_metrics(test.objects, found, test.sizes, test.classes)
        return {f"test_{name}": value for name, value in values.items() if not math.isnan(value)}

    def measures(self, row: dict[str, float]) -> list[Measure]:
        """VOC's mean average precision first, or COCO's, as the data are scored."""
        return [_MEASURES[key] for key in _REPORTED[self.protocol] if key in row]

    def describe(self, row: dict[str, float]) -> str:
        """The loss with its parts, and the first measures."""
        prefix = "train_loss_"
        parts = [f"{key.removeprefix(prefix)} {row[key]:.3f}" for key in row if key.startswith(prefix)]
        told = f"train loss {row['train_loss']:.3f} ({', '.join(parts)})"
        return "  ".join([told, *(f"{m.label} {100 * row[m.key]:.2f} %" for m in self.measures(row)[:3])])

    def finish(
        self, out: Path, model: DetectorModule, batches: BatchSource, accelerator: Accelerator, test: BoxDataset
    ) -> None:
        """Write the detections on the test images as COCO's results, and what they are scored by as COCO's annotations.

        Both are files that COCO's tools read.
        """
        if self.found is None:  # the run was stopped between its last evaluation and this
            self.found = detect(model, batches, len(test))
        if accelerator.is_main_process:
            truth = coco_ground_truth(
                test.objects, test.image_ids, test.file_names, test.sizes, test.classes, test.category_ids
            )
            results = coco_results(self.found, test.image_ids, test.category_ids)
            write_atomically(out / GROUND_TRUTH, json.dumps(truth))
            write_atomically(out / DETECTIONS, json.dumps(results))

    def illustrate(self, models: Mapping[str, DetectorModule], test: BoxDataset, folder: Path) -> list[dict[str, str]]:
        """See `write_gallery`."""
        return write_gallery(models, test, folder)


@torch.no_grad()
def detect(model: DetectorModule, batches: BatchSource, count: int) -> list[Detections]:
    """What a detector finds in each of the `count` test images, on the CPU, in their order; over all processes.

    In an image that could not be read it finds nothing.
    """
    model.eval()
    mine: list[tuple[int, Detections]] = []
    for images, targets in batches.test():
        for target, output in zip(targets, model(images), strict=True):
            mine.append((target["number"], Detections.of(output)))
    everything = dict(gather_object(mine))
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    return [everything.get(number, none) for number in range(count)]
