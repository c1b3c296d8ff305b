"""Where the attention of a detector points in test images with objects."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from bam.attention.contract import AttentionMaps
from bam.data import BoxDataset
from bam.data.interface import Track, untracked
from bam.explanation.examination import plain
from bam.explanation.pointing import pointing_at_objects
from bam.explanation.views import GAIN, SPATIAL, SiteView
from bam.tasks.detection.detectors import DetectorModule
from bam.tasks.detection.pictures import views_on_image
from bam.tasks.task import Trained


def examine_detector(trained: Trained, test: BoxDataset, limit: int | None, track: Track = untracked) -> dict[str, Any]:
    """The pointing game on a sample of the images with objects, the same in every call; as plain data.

    The other parts of `bam.explanation.examine` are empty: they are for classifiers.

    Raises:
        ValueError: without attention or images with objects, or for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image, got {limit}")
    numbers = [k for k, objects in enumerate(test.objects) if (~objects.ignored).any()]
    sample = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))[:limit].sort().values
    examined = test.subset(torch.tensor(numbers, dtype=torch.int64)[sample])
    results = pointing_at_objects(_maps(trained, examined, track))
    count = next(iter(results.values())).num_images
    parts = {"statistics": {}, "pointing": plain(results), "faithfulness": {}, "ablations": None}
    return {"num_images": count, "num_unreadable": len(examined) - count, **parts}


def _maps(
    trained: Trained, examined: BoxDataset, track: Track
) -> Iterator[tuple[dict[str, AttentionMaps], Tensor, tuple[int, int]]]:
    for (image, *_), (target, *_) in track(examined.batches(1, trained.device).test(), len(examined), "pointing"):
        _, views = views_on_image(cast(DetectorModule, trained.network), image)
        height, width = image.shape[1:]
        yield {view.site: _as_maps(view) for view in views}, target["boxes"], (height, width)


def _as_maps(view: SiteView) -> AttentionMaps:
    """The maps of one image, without the detector's padding."""
    spatial = view.maps.get(SPATIAL)
    logits = None if spatial is None else spatial.logit(eps=1e-7)[None, None]  # without eps, 1 would become infinite
    return AttentionMaps(view.maps[GAIN][None], spatial_logits=logits)
