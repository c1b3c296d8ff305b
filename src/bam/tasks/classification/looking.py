"""What a classifier's attention does on images: single views, and figures over test images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bam.data import LabelledImages
from bam.explanation import examine, record, save_png
from bam.explanation.examination import sample
from bam.explanation.passes import NOTHING_RUNS
from bam.explanation.statistics import most_selective
from bam.explanation.views import ImageView, site_views
from bam.tasks.classification.network import class_logits
from bam.tasks.classification.predict import most_likely
from bam.tasks.task import Trained

_SHOWN, _PICTURES = 24, 3  # images in the gallery, and how many of them are pictures in the report
_SMALL = 64  # longest side of small images, in pixels
_LIMITS = (256, 48)  # number of small and of larger images: a report must not take as long as the training


@torch.no_grad()
def view(trained: Trained, name: str, inputs: Tensor) -> ImageView:
    """The attention in one normalised image (3, H, W), and the most likely classes with their probabilities."""
    mean, std = trained.preprocessing.normalization
    pixels = (inputs.cpu() * std[:, None, None] + mean[:, None, None]).round().clamp(0, 255)
    with record(trained.network) as passes:
        logits = class_logits(trained.network(inputs[None].to(trained.device))).float()
    if not passes:
        raise ValueError(NOTHING_RUNS)
    if not logits.isfinite().all():
        raise ValueError(f"{name}: the network's output is not finite: its weights are damaged")
    (prediction,) = most_likely(logits, trained.classes)
    return ImageView(name, pixels.to(torch.uint8), prediction, site_views(passes[0], 0))


def look(trained: Trained, test: LabelledImages, folder: Path) -> dict[str, Any]:
    """Views of some test images, with pictures in `folder`, and an examination of more of them, see `examine`.

    Deletion and insertion are left out: they take longer than all the rest.
    """
    normalization = trained.preprocessing.normalization
    images = sample(test, _LIMITS[max(test.image_size) > _SMALL])
    views: list[ImageView] = []
    spread = torch.linspace(0, len(images) - 1, min(_SHOWN, len(images))).long()  # folders are sorted by class
    for inputs, classes in images.subset(spread).batches(1, normalization).test():
        views.append(view(trained, f"{len(views) + 1}: {test.classes[classes[0]]}", inputs[0]))
    pictures = []
    for number, shown in enumerate(views[:: max(1, len(views) // _PICTURES)][:_PICTURES], start=1):
        picture = shown.picture()
        save_png(picture.quantize(256), folder / f"{number}.png")  # a third of the size, for the report
        label, share = shown.prediction[0]
        pictures.append({"file": f"{number}.png", "caption": f"{shown.name}; predicted: {label}, {100 * share:.0f} %"})
    results = examine(trained.network, images, normalization, limit=None, parts=("pointing", "ablations"))
    for values in results["statistics"].values():  # only the channels and classes that differ most
        values["classes"] = values["classes"] and most_selective(values["classes"], test.classes)
    return results | {"views": [shown.as_plain() for shown in views], "pictures": pictures}
