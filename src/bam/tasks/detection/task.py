"""The detection task."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from bam.attention import AttentionSpec
from bam.costs import Cost
from bam.data import BatchSource, BoxDataset, load_boxes
from bam.data.files.listing import find_files
from bam.data.interface import Track
from bam.dryrun import Image
from bam.explanation.views import ImageView
from bam.files import strict_json
from bam.models import build
from bam.placement import BOTTLENECKS, Sites, find_bottlenecks, select_sites
from bam.recipes import DetectionRecipe
from bam.records import Breakdown, ClassResult, Measure, Record
from bam.tasks.detection.build import build_detector
from bam.tasks.detection.cost import detector_cost, input_size
from bam.tasks.detection.detectors import DETECTORS, DetectorModule
from bam.tasks.detection.gallery import SCORE, write_gallery
from bam.tasks.detection.looking import examine_detector
from bam.tasks.detection.metrics import (
    Detections,
    coco_ground_truth,
    coco_metrics,
    coco_results,
    mean_average_precision,
    voc_average_precision,
)
from bam.tasks.detection.pictures import draw, views_on_image
from bam.tasks.detection.predict import predict
from bam.tasks.task import Evaluation, PredictOptions, Price, Subject, Task, Trained, count_classes

_NUM_CLASSES = 20  #: the default, as in VOC
_NUM_EXAMINED, _VIEWS = 48, 12  # images in a report: examined for where attention points, and in the gallery
_LEAST_SCORE = 0.3  #: minimum score of the detections drawn by `predict`

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
    "test_ar100": Measure("test_ar100", "AR", "mean recall with up to 100 detections per image (COCO)", True),
}
#: Evaluation protocol of the data -> measures reported; the first decides.
_REPORTED = {
    "voc": ("test_voc07", "test_voc12", "test_ap", "test_ap50", "test_ap75"),
    "coco": tuple(key for key in _MEASURES if not key.startswith("test_voc")),
}


class Detection(Task):
    """Boxes and their classes."""

    name: ClassVar[str] = "detection"
    illustrates: ClassVar[bool] = True
    not_predicted: ClassVar[str] = ""
    not_named: ClassVar[str] = "give the folder of a run"
    not_broken_down: ClassVar[str] = ""
    not_exported: ClassVar[str] = "bam export writes classifiers; to use a detector, run bam predict"
    recipe: DetectionRecipe

    @classmethod
    def catalogue(cls) -> list[str]:
        """The detectors, each with its backbone and paper."""
        rows = [f"{name:35}  {detector.backbone:20}  {detector.source}" for name, detector in DETECTORS.items()]
        return ["detector, backbone, paper", *rows]

    def load(self, root: Path | None) -> tuple[BoxDataset, BoxDataset]:
        """(train, test), see `bam.data.load_boxes`.

        Raises:
            ValueError: if the training images or the test images contain no objects to detect.
        """
        train, test = load_boxes(self.recipe.data, root, **self.recipe.data_options)
        for kind, data in (("test", test), ("training", train)):
            if not any((~objects.ignored).any() for objects in data.objects):
                raise ValueError(f"{self.recipe.data}: the {len(data)} {kind} images contain no objects to detect")
        return train, test

    def network(self, subject: Subject, *, to_train: bool = True) -> DetectorModule:
        """See `build_detector`; given the record of a run, the detector normalises images as that run did."""
        recipe = self.recipe
        if recipe.batchnorm == "frozen" and recipe.backbone is None and recipe.pretrained is None:
            raise ValueError("batchnorm frozen would freeze untrained BatchNorms: give backbone or pretrained too")
        model = build_detector(recipe, count_classes(subject), to_train=to_train)
        if isinstance(subject, Record):
            model.transform.image_mean = subject.normalization["mean"]
            model.transform.image_std = subject.normalization["std"]
        return model

    def normalization(self, network: DetectorModule, train: BoxDataset) -> tuple[Tensor, Tensor]:
        """The mean and standard deviation the detector itself uses: those of its weights, else ImageNet's."""
        return 255 * torch.tensor(network.transform.image_mean), 255 * torch.tensor(network.transform.image_std)

    def batches(self, data: BoxDataset, size: int, normalization: tuple[Tensor, Tensor], placement: Any) -> BatchSource:
        """Batches of images from 0 to 1 with their boxes; the detector normalises and resizes them itself."""
        device, shard = placement
        return data.batches(size, device, shard=shard)

    def cost(self, network: DetectorModule, image_size: tuple[int, int]) -> Cost:
        """See `detector_cost`; `image_size` has no effect, since the detector resizes images itself."""
        return detector_cost(network)

    def price(self, num_classes: int | None, image: Image | None) -> Price:
        """The cost for VOC's 20 classes by default, at the size to which the detector resizes images."""
        count = num_classes or _NUM_CLASSES
        plain = build_detector(self.recipe.replace(attention=AttentionSpec()), count, to_train=False)
        conditions = "{} classes, {} x {}".format(count, *input_size(plain))
        if self.recipe.attention.is_none:
            return Price(detector_cost(plain), None, conditions)
        attended = build_detector(self.recipe, count, to_train=False)
        return Price(detector_cost(plain), detector_cost(attended), conditions)

    def sites(self, num_classes: int | None, image: Image | None, keep: int) -> tuple[Sites, str]:
        """The bottlenecks of the detector's backbone network, or sites named in the detector."""
        entry = DETECTORS[self.recipe.model]
        selection = entry.placed(self.recipe.attention)
        if any("backbone." in site for site in selection):
            plain = self.recipe.replace(attention=AttentionSpec())
            detector = build_detector(plain, num_classes or _NUM_CLASSES, to_train=False)
            return select_sites(detector, selection, image), ""
        network = build(entry.backbone)
        remark = f"{self.recipe.model} is built on {entry.backbone}, and attention goes into that network:"
        if selection == (BOTTLENECKS,):
            return find_bottlenecks(network, image, keep=keep), remark
        return select_sites(network, selection, image), remark

    def loss(
        self, network: DetectorModule, images: list[Tensor], targets: list[dict[str, Any]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the detector's losses, and figures: the sum and each loss, times the number of images."""
        objects = [{"boxes": target["boxes"], "labels": target["labels"]} for target in targets]
        losses = {f"loss_{name.removeprefix('loss_')}": loss.float() for name, loss in network(images, objects).items()}
        loss = torch.stack(list(losses.values())).sum()
        return loss, {name: value.detach() * len(images) for name, value in ({"loss": loss} | losses).items()}

    def evaluate(self, network: DetectorModule, batches: BatchSource, test: BoxDataset) -> Evaluation:
        """COCO's metrics and VOC's mAP by both rules, from 0 to 1; undefined ones are left out.

        The measures follow the protocol of the data: VOC's mAP or COCO's AP comes first.
        """
        return self._evaluation(detect(network, batches.test(), len(test)), test)[0]

    def break_down(self, network: DetectorModule, batches: Iterable[Any], test: BoxDataset) -> Breakdown:
        """The measures, and each class's average precision by both of VOC's rules; unreadable images count as missed.

        Raises:
            ValueError: if there is no object to detect.
        """
        evaluation, per_class = self._evaluation(detect(network, batches, len(test)), test)
        counts = torch.zeros(len(test.classes) + 1, dtype=torch.int64)
        for objects in test.objects:
            counts += torch.bincount(objects.labels[~objects.ignored], minlength=len(counts))
        rows = [
            ClassResult(
                name, int(counts[label]), figures={rule: float(per_class[rule][label - 1]) for rule in per_class}
            )
            for label, name in enumerate(test.classes, start=1)
            if counts[label]
        ]
        if not rows:
            raise ValueError(f"{self.recipe.data}: the {len(test)} images contain no objects to detect")
        figures = {measure.key: evaluation.figures[measure.key] for measure in evaluation.measures}
        return Breakdown(len(test), evaluation.measures, figures, "objects", rows)

    def _evaluation(self, detections: list[Detections], test: BoxDataset) -> tuple[Evaluation, dict[str, Tensor]]:
        """The evaluation of detections, and by VOC's rules the average precision of each class (num_classes,)."""
        per_class = {
            "voc07": voc_average_precision(test.objects, detections, len(test.classes), rule="11 points"),
            "voc12": voc_average_precision(test.objects, detections, len(test.classes), rule="area"),
        }
        values = {name: mean_average_precision(precisions) for name, precisions in per_class.items()}
        values |= coco_metrics(test.objects, detections, test.sizes, test.classes)
        figures = {f"test_{name}": value for name, value in values.items() if not math.isnan(value)}
        measures = [_MEASURES[key] for key in _REPORTED[test.protocol] if key in figures]
        return Evaluation(figures, measures, detections), per_class

    def describe(self, row: Mapping[str, float]) -> str:
        """The training loss and its parts."""
        prefix = "train_loss_"
        parts = [f"{key.removeprefix(prefix)} {row[key]:.3f}" for key in row if key.startswith(prefix)]
        return f"train loss {row['train_loss']:.3f} ({', '.join(parts)})"

    def results(self, evaluation: Evaluation, test: BoxDataset) -> dict[str, str]:
        """The detections and the ground truth of the test images, in COCO's formats."""
        truth = coco_ground_truth(
            test.objects, test.image_ids, test.file_names, test.sizes, test.classes, test.category_ids
        )
        detections = coco_results(evaluation.output, test.image_ids, test.category_ids)
        return {GROUND_TRUTH: strict_json(truth, indent=None), DETECTIONS: strict_json(detections, indent=None)}

    def illustrate(
        self, networks: Mapping[str, DetectorModule], test: BoxDataset, folder: Path
    ) -> list[dict[str, str]]:
        """See `write_gallery`."""
        return write_gallery(networks, test, folder)

    @property
    def turns(self) -> bool:
        """Whether the training boxes refer to photographs as EXIF turns them."""
        return self.recipe.data_options.get("exif") == "turn"

    def views(
        self, trained: Trained, images: Iterable[tuple[str, Any]], question: str | None = None
    ) -> Iterator[ImageView]:
        """The attention, and the five best detections; the pictures show boxes."""
        for name, image in images:
            pixels = pil_to_tensor(image)
            detections, sites = views_on_image(trained.network, pixels.float().to(trained.device) / 255)
            labels, scores = detections.labels.tolist(), detections.scores.tolist()
            names = [trained.classes[label - 1] for label in labels]
            ranked = sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1])
            yield ImageView(name, draw(pixels, detections, trained.classes, SCORE), ranked[:5], sites)

    def examine(self, trained: Trained, test: BoxDataset, limit: int | None, track: Track) -> dict[str, Any]:
        """Where the attention points, see `examine_detector`."""
        return examine_detector(trained, test, limit, track)

    def look(self, trained: Trained, test: BoxDataset, folder: Path) -> dict[str, Any]:
        """See `examine_detector`; adds views of a few images with objects."""
        results = examine_detector(trained, test, _NUM_EXAMINED)
        with_objects = [k for k, objects in enumerate(test.objects) if (~objects.ignored).any()][:_VIEWS]
        batches = test.subset(torch.tensor(with_objects)).batches(1, torch.device("cpu")).test()
        images = ((str(number), to_pil_image(image)) for number, ((image, *_), _) in enumerate(batches, start=1))
        return results | {"views": [view.as_plain() for view in self.views(trained, images)], "pictures": []}

    def predict(self, trained: Trained, images: Sequence[Path], out: Path, options: PredictOptions) -> list[str]:
        """Draw detections in the user's own images, see `predict`."""
        score = _LEAST_SCORE if options.score is None else options.score
        files, notes = find_files(images)
        results, unreadable = predict(trained, files, out, score, options.track, turn=self.turns)
        lines = []
        for file, detections in results:
            pairs = zip(detections.labels.tolist(), detections.scores.tolist(), strict=True)
            objects = [f"{trained.classes[label - 1]} {value:.2f}" for label, value in pairs]
            lines.append(f"{file}: {', '.join(objects) or f'nothing with a score of {score} or more'}")
        lines += [f"left out: {file} {problem}" for file, problem in unreadable]
        return [*lines, *notes, f"pictures and predictions.json in {out}"]


@torch.no_grad()
def detect(model: DetectorModule, batches: Iterable[Any], count: int) -> list[Detections]:
    """Run a detector on `count` test images; returns the detections of each, gathered from all processes, on the CPU.

    Images that could not be read have no detections.
    """
    model.eval()
    numbered: list[tuple[int, Detections]] = []
    for images, targets in batches:
        for target, output in zip(targets, model(images), strict=True):
            numbered.append((target["number"], Detections.of(output)))
    by_number = dict(gather_object(numbered))
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    return [by_number.get(number, empty) for number in range(count)]
