"""Everything that can be said about the attention of a network, as plain data."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bam.data import LabelledImages, epoch_generator
from bam.explanation.ablation import ablations
from bam.explanation.faithfulness import deletion_insertion
from bam.explanation.passes import Batches
from bam.explanation.pointing import pointing
from bam.explanation.statistics import attention_statistics

#: Called with what is computed, and how many of how many images are done.
Progress = Callable[[str, int, int], None]

_BATCH_SIZE = 64


def examine(
    network: nn.Module,
    images: LabelledImages,
    normalization: tuple[Tensor, Tensor],
    *,
    boxes: Tensor | None = None,
    limit: int | None = 512,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Statistics, pointing, deletion and insertion, and ablations of a network's attention: plain data, strict JSON.

    Args:
        network: a classifier with attention; it is left as it was.
        images: images and their classes, usually the test set.
        normalization: mean and deviation of each channel (0 to 255), those of the training set.
        boxes: the object in each image, (n, 4), xyxy in pixels of the images as served; default: the images' own.
        limit: look at a random sample of so many images, the same in every call; None for all.
        progress: called with what is computed, images done, and images in total.

    Returns:
        "num_images", "num_unreadable", "statistics", "pointing" (None without boxes), "faithfulness", "ablations".

    Raises:
        ValueError: without attention or images, for a limit below 1, boxes that do not fit, or values not finite.
    """
    boxes = getattr(images, "boxes", None) if boxes is None else boxes
    images, boxes = sample(images, boxes, limit)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    source = images.batches(_BATCH_SIZE, normalization, device)

    def batches(title: str) -> Batches:
        return _counted(source.test(), title, len(images), progress)

    statistics = attention_statistics(network, batches("statistics"))
    num_images = next(iter(statistics.values())).num_images
    return {
        "num_images": num_images,
        "num_unreadable": len(images) - num_images,
        "statistics": plain(statistics),
        "pointing": None if boxes is None else plain(pointing(network, batches("pointing"), boxes)),
        "faithfulness": plain(deletion_insertion(network, batches("faithfulness"))),
        "ablations": plain(ablations(network, batches("ablations"))),
    }


def sample(images: LabelledImages, boxes: Tensor | None, limit: int | None) -> tuple[LabelledImages, Tensor | None]:
    """So many of the images and of their boxes, drawn at random, the same in every call; None for all.

    Raises:
        ValueError: as `examine`.
    """
    if boxes is not None and len(boxes) != len(images):
        raise ValueError(f"there are {len(boxes)} boxes for {len(images)} images: every image needs one")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image, got {limit}")
    if not len(images):
        raise ValueError("there are no images to look at")
    if limit is None or limit >= len(images):
        return images, boxes
    chosen = torch.randperm(len(images), generator=epoch_generator(0, 0))[:limit].sort().values
    return images.subset(chosen), None if boxes is None else boxes[chosen]


def _counted(batches: Batches, title: str, total: int, progress: Progress | None) -> Iterator[tuple[Tensor, Tensor]]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch[0])
        if progress is not None:
            progress(title, done, total)


def plain(results: Any) -> Any:
    """Results as dictionaries, lists, numbers, strings and None."""
    if dataclasses.is_dataclass(results) and not isinstance(results, type):
        return {field.name: plain(getattr(results, field.name)) for field in dataclasses.fields(results)}
    if isinstance(results, dict):
        return {name: plain(value) for name, value in results.items()}
    return [plain(value) for value in results] if isinstance(results, list | tuple) else results
