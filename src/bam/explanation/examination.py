"""Run all analyses of a network's attention and return them as plain data."""

import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from bam.data import LabelledImages, epoch_generator
from bam.data.interface import Track, untracked
from bam.explanation.ablation import ablations
from bam.explanation.faithfulness import deletion_insertion
from bam.explanation.passes import Batches
from bam.explanation.pointing import pointing
from bam.explanation.statistics import attention_statistics

PARTS = ("pointing", "faithfulness", "ablations")
_BATCH_SIZE = 64


def examine(
    network: nn.Module,
    images: LabelledImages,
    normalization: tuple[Tensor, Tensor],
    *,
    limit: int | None = 512,
    parts: Collection[str] = PARTS,
    track: Track = untracked,
) -> dict[str, Any]:
    """Statistics, pointing, deletion and insertion, and ablations of a network's attention, as data for strict JSON.

    Args:
        network: a classifier with attention; its state is restored.
        images: images and their classes, usually the test set; if they have `boxes`, one object per image.
        normalization: mean and deviation of each channel (0 to 255) over the training set.
        limit: size of a random sample of the images, the same in every call; None for all.
        parts: what to compute in addition to the statistics.
        track: wraps the batches of each part, e.g. in a progress bar.

    Returns:
        "num_images", "num_unreadable", "statistics", and whichever of "pointing" (None without boxes), "faithfulness"
        and "ablations" are in `parts`.

    Raises:
        ValueError: without attention or images, for an unknown part, a limit below 1, boxes that do not match the
            images, or values that are not finite.
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"parts: {', '.join(sorted(unknown))} unknown; choose from {', '.join(PARTS)}")
    images = sample(images, limit)
    boxes: Tensor | None = getattr(images, "boxes", None)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    source = images.batches(_BATCH_SIZE, normalization, device)

    def batches(title: str) -> Batches:
        return track(source.test(), -(-len(images) // _BATCH_SIZE), title)

    statistics = attention_statistics(network, batches("statistics"))
    num_images = next(iter(statistics.values())).num_images
    results: dict[str, Any] = {"num_images": num_images, "num_unreadable": len(images) - num_images}
    results["statistics"] = plain(statistics)
    if "pointing" in parts:
        results["pointing"] = None if boxes is None else plain(pointing(network, batches("pointing"), boxes))
    if "faithfulness" in parts:
        results["faithfulness"] = plain(deletion_insertion(network, batches("faithfulness")))
    if "ablations" in parts:
        results["ablations"] = plain(ablations(network, batches("ablations")))
    return results


def sample(images: LabelledImages, limit: int | None) -> LabelledImages:
    """A random sample of `limit` images, the same in every call; all images if `limit` is None.

    Raises:
        ValueError: as `examine`.
    """
    boxes: Tensor | None = getattr(images, "boxes", None)
    if boxes is not None and len(boxes) != len(images):
        raise ValueError(f"there are {len(boxes)} boxes for {len(images)} images: every image needs one")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image, got {limit}")
    if not len(images):
        raise ValueError("there are no images to examine")
    if limit is None or limit >= len(images):
        return images
    return images.subset(torch.randperm(len(images), generator=epoch_generator(0, 0))[:limit].sort().values)


def plain(results: Any) -> Any:
    """Results as dictionaries, lists, numbers, strings and None."""
    if dataclasses.is_dataclass(results) and not isinstance(results, type):
        return {field.name: plain(getattr(results, field.name)) for field in dataclasses.fields(results)}
    if isinstance(results, dict):
        return {name: plain(value) for name, value in results.items()}
    return [plain(value) for value in results] if isinstance(results, list | tuple) else results
