"""Deletion and insertion: does the network rely on the places that its attention points at?"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bam.explanation.bootstrap import NO_VERDICT, Estimate, estimates, over_sites
from bam.explanation.gradcam import grad_cam
from bam.explanation.passes import Batch, Batches, class_logits, undisturbed, watched
from bam.explanation.places import centred, levels, place_map, place_map_name

BLUR = 1 / 10  #: deviation of the blur that insertion starts from, as a share of the image's shorter side
_OTHERS = ("random", "centre", "grad_cam")
_SEED = 0


@dataclass(frozen=True)
class Curve:
    """Deletion or insertion in the order of one site's map and in other orders: areas under the curve, 0 to 1."""

    attention: Estimate
    others: dict[str, Estimate]  #: "random", "centre", "grad_cam"
    differences: dict[str, Estimate]  #: attention minus each other order, image by image
    curves: dict[str, tuple[float, ...]]  #: order -> mean probability of the class at each fraction
    verdict: str  #: the conclusion that the interval of attention minus random supports


@dataclass(frozen=True)
class Faithfulness:
    """Results of deleting and inserting the places that the attention at one site points at."""

    num_images: int
    place_map: str  #: the map that was used: "spatial logits" or "gain"
    fractions: tuple[float, ...]  #: shares of the pixels deleted or inserted
    deletion: Curve  #: a lower area is better
    insertion: Curve  #: a higher area is better
    verdict: str  #: whether the map is evidence


def deletion_insertion(network: nn.Module, batches: Batches, *, steps: int = 16) -> dict[str, Faithfulness]:
    """Deletion and insertion curves of the map at each site, with 95 % bootstrap intervals over images.

    Petsiuk et al. (RISE, https://arxiv.org/abs/1806.07421) track the probability of the true class, most attended
    pixels first: deletion replaces pixels by the mean, insertion puts them into a blurred image. The area under each
    curve is by trapezoids. The other orders are Grad-CAM of the true class, a Gaussian at the centre, and the same map
    with its places shuffled ("random"), which deletes patches of the same size. Pixels with equal values come in a
    random order.

    Args:
        network: a classifier with attention; its state is restored.
        batches: normalised images (N, 3, H, W), with the mean at 0, and their classes (N,).
        steps: number of times pixels are replaced; each step costs six forward passes per site plus two.

    Raises:
        ValueError: for steps below 1; as `bam.explanation.attention_statistics`.
    """
    if steps < 1:
        raise ValueError(f"deletion needs at least 1 step, got {steps}")
    batches_by_site: dict[str, list[dict[str, _Curves]]] = {}
    kinds: dict[str, str] = {}
    for batch, _, sites in watched(network, batches):
        cams = grad_cam(network, batch.images, batch.classes)
        probe = _Probe(network, batch, steps)
        centre = probe.curves(centred(probe.size).to(batch.images.device).expand(len(batch.images), -1, -1))
        for site, maps in sites.items():
            kinds[site] = place_map_name(maps)
            batches_by_site.setdefault(site, []).append(
                {
                    "attention": probe.curves(place_map(maps)),
                    "random": probe.curves(probe.shuffled(place_map(maps))),
                    "centre": centre,
                    "grad_cam": probe.curves(cams[site]),
                }
            )
    deletion, insertion = (_curves_of(batches_by_site, kind) for kind in _Curves._fields)
    fractions = tuple(step / steps for step in range(steps + 1))
    results = {}
    for site, pair in zip(batches_by_site, zip(_judged(deletion, -1), _judged(insertion, 1), strict=True), strict=True):
        count = pair[0].attention.num_images
        results[site] = Faithfulness(count, kinds[site], fractions, *pair, "; ".join(_conclusions(*pair)))
    return results


class _Curves(NamedTuple):
    deletion: Tensor  #: probabilities, float64 (N, steps + 1), on the CPU
    insertion: Tensor


class _Probe:
    """Deletes and inserts pixels of one batch and measures the probability of the true class."""

    def __init__(self, network: nn.Module, batch: Batch, steps: int) -> None:
        self.network, self.batch, self.steps = network, batch, steps
        height, width = batch.images.shape[2:]
        self.size = (height, width)
        numbers = range(batch.first, batch.first + len(batch.images))
        self.generators = [torch.Generator().manual_seed(_SEED + number) for number in numbers]
        self.ties = self._permutations(height * width)
        self.blurred = blurred(batch.images)
        self.ends = {
            name: self._probability(images)
            for name, images in (
                ("whole", batch.images),
                ("deleted", torch.zeros_like(batch.images)),
                ("blurred", self.blurred),
            )
        }

    def _permutations(self, length: int) -> Tensor:
        permutations = [torch.randperm(length, generator=generator) for generator in self.generators]
        return torch.stack(permutations).to(self.batch.images.device)

    def shuffled(self, values: Tensor) -> Tensor:
        """Maps (N, h, w) with their places shuffled."""
        return values.flatten(1).gather(1, self._permutations(values[0].numel())).view_as(values)

    def curves(self, values: Tensor) -> _Curves:
        """Probabilities while pixels are deleted and inserted, in descending order of the maps (N, h, w)."""
        ranks = ordered(levels(values, self.size).flatten(1), self.ties).view(-1, 1, *self.size)
        images, count = self.batch.images, self.size[0] * self.size[1]
        deletion, insertion = [self.ends["whole"]], [self.ends["blurred"]]
        for step in range(1, self.steps):
            first = ranks < round(step * count / self.steps)
            deletion.append(self._probability(images.masked_fill(first, 0)))
            insertion.append(self._probability(torch.where(first, images, self.blurred)))
        deletion.append(self.ends["deleted"])
        insertion.append(self.ends["whole"])
        return _Curves(torch.stack(deletion, 1), torch.stack(insertion, 1))

    def _probability(self, images: Tensor) -> Tensor:
        with undisturbed(self.network), torch.no_grad():
            logits = class_logits(self.network, images, self.batch.classes)
        return logits.double().softmax(1).gather(1, self.batch.classes[:, None])[:, 0].cpu()


def ordered(values: Tensor, ties: Tensor) -> Tensor:
    """The rank of each value (N, n) in its row, 0 for the largest; the permutations `ties` order equal values."""
    order = ties.gather(1, values.gather(1, ties).argsort(dim=1, descending=True, stable=True))
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def blurred(images: Tensor) -> Tensor:
    """Images (N, C, H, W) blurred by a Gaussian whose deviation is `BLUR` times the shorter side; borders repeat."""
    deviation = BLUR * min(images.shape[2:])
    radius = math.ceil(3 * deviation)
    kernel = (-((torch.arange(-radius, radius + 1, device=images.device) / deviation) ** 2) / 2).exp()
    kernel = (kernel / kernel.sum()).to(images.dtype)
    padded = F.pad(images, (radius, radius, radius, radius), mode="replicate").flatten(0, 1)[:, None]
    return F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None]).view_as(images)


def _curves_of(batches_by_site: dict[str, list[dict[str, _Curves]]], kind: str) -> dict[str, Curve]:
    """Site -> its "deletion" or "insertion" curve."""
    return {site: _curve(parts, kind, len(batches_by_site)) for site, parts in batches_by_site.items()}


def _curve(parts: list[dict[str, _Curves]], kind: str, sites: int) -> Curve:
    """Areas, differences and mean curves of "deletion" or "insertion", from one probability table per batch."""
    probabilities = {name: torch.cat([getattr(part[name], kind) for part in parts]) for name in parts[0]}
    areas = {
        name: torch.trapezoid(values, dx=1 / (values.shape[1] - 1), dim=1) for name, values in probabilities.items()
    }
    differences = {f"minus {name}": areas["attention"] - areas[name] for name in _OTHERS}
    results = estimates(areas | differences, sites)
    return Curve(
        results["attention"],
        {name: results[name] for name in _OTHERS},
        {name: results[f"minus {name}"] for name in _OTHERS},
        {name: tuple(values.mean(0).tolist()) for name, values in probabilities.items()},
        "",
    )


def _judged(curves: dict[str, Curve], better: int) -> list[Curve]:
    """Add verdicts, corrected for the number of sites, to all sites' curves."""
    verb = "deleting what it points at hurts" if better < 0 else "showing what it points at helps"
    texts = {
        None: NO_VERDICT,
        0: "no difference from a random order shown",
        better: f"{verb} more than in a random order",
        -better: f"{verb} less than in a random order",
    }
    corrected = over_sites({site: curve.differences for site, curve in curves.items()})
    return [
        dataclasses.replace(curve, differences=corrected[site], verdict=texts[corrected[site]["random"].sign])
        for site, curve in curves.items()
    ]


def _conclusions(deletion: Curve, insertion: Curve) -> Iterator[str]:
    """The parts of a site's verdict; in the signs, 1 counts for the map and -1 against it."""
    signs = {name: _signs(deletion, insertion, name) for name in ("random", "centre")}
    if not signs["random"]:
        yield NO_VERDICT
        return
    if signs["random"] == {0}:
        yield "no difference shown: no evidence that it is more than decoration"
        return
    kind = "mixed" if {1, -1} <= signs["random"] else "evidence" if 1 in signs["random"] else "contrary"
    texts = [curve.verdict for curve in (deletion, insertion) if curve.differences["random"].sign]
    yield f"{kind}: {' and '.join(texts)}"
    if kind == "evidence" and signs["centre"] != {1}:
        how = "the centre of the image does better" if -1 in signs["centre"] else "no difference from the centre shown"
        yield how + (" in one of the two" if 1 in signs["centre"] else "")


def _signs(deletion: Curve, insertion: Curve, other: str) -> set[int]:
    lower, higher = deletion.differences[other].sign, insertion.differences[other].sign
    return set() if lower is None or higher is None else {-lower, higher}
