"""Does the attention point at the object? The pointing game and the energy inside the box."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bam.attention.contract import AttentionMaps
from bam.explanation.bootstrap import NO_VERDICT, Estimate, estimates, over_sites
from bam.explanation.gradcam import grad_cam
from bam.explanation.passes import Batches, watched
from bam.explanation.places import centred, levels, place_map, place_map_name, shares, strength, upsampled

TOLERANCE = 15 / 224  #: tolerance of the pointing game, as a share of the image's shorter side
_NAMES = {"chance": "chance", "centre": "the centre of the image", "grad_cam": "Grad-CAM"}


@dataclass(frozen=True)
class Scores:
    """One measure at one site: for the attention and for the references, with paired differences."""

    attention: Estimate
    others: dict[str, Estimate]  #: the references: "chance", "centre" and, for classifiers, "grad_cam"
    differences: dict[str, Estimate]  #: attention minus each reference, image by image
    verdict: str  #: the conclusion that the intervals support


@dataclass(frozen=True)
class Pointing:
    """Where the attention at one site points."""

    num_images: int
    place_map: str  #: the map that was used: "spatial logits" or "gain"
    hits: Scores  #: pointing game: share of images where the maximum lies in the box, within the tolerance
    energy: Scores  #: share of the map's sum inside the box


def pointing(network: nn.Module, batches: Batches, boxes: Tensor) -> dict[str, Pointing]:
    """The pointing game and the energy inside the box at each site, with 95 % bootstrap intervals over images.

    Pointing game (Zhang et al., https://arxiv.org/abs/1608.00507): a hit if the maximum of the upsampled map lies in
    the box grown by 15 in 224 pixels. If several pixels tie for the maximum, the score is the share of them that hit,
    so a constant map scores chance. Energy (Wang et al., https://arxiv.org/abs/1910.01279): the share of the upsampled
    map's sum inside the box. Both are compared with chance (the box's share of the image's area), a Gaussian at the
    centre, and Grad-CAM of the true class.

    Args:
        network: a classifier with attention; its state is restored.
        batches: normalised images (N, 3, H, W) and their classes (N,).
        boxes: (n, 4), xyxy in pixels, one per image, in the order of the images.

    Raises:
        ValueError: for boxes that do not match the images; as `bam.explanation.attention_statistics`.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be (n, 4), xyxy in pixels, got {tuple(boxes.shape)}")
    scores_by_site: dict[str, dict[str, list[_Score]]] = {}
    kinds: dict[str, str] = {}
    count = 0
    for batch, _, sites in watched(network, batches):
        count += len(batch.images)
        own_boxes, (height, width) = batch.part(boxes), batch.images.shape[2:]
        if len(own_boxes) < len(batch.images):
            raise ValueError(f"there are {len(boxes)} boxes for more images: every image needs one")
        targets = _Targets(own_boxes, batch.first, (height, width))
        cams = grad_cam(network, batch.images, batch.classes)
        prior = centred(targets.size).to(batch.images.device).expand(len(batch.images), -1, -1)
        common = {"chance": targets.chance(), "centre": targets.score(prior, prior)}
        for site, maps in sites.items():
            kinds[site] = place_map_name(maps)
            attention = targets.score(place_map(maps), strength(maps))
            scores = {"attention": attention, **common, "grad_cam": targets.score(cams[site], cams[site])}
            for name, score in scores.items():
                scores_by_site.setdefault(site, {}).setdefault(name, []).append(score)
    if count != len(boxes):
        raise ValueError(f"there are {len(boxes)} boxes for {count} images: every image needs one")
    return _pointing(scores_by_site, kinds)


def pointing_at_objects(
    images: Iterable[tuple[Mapping[str, AttentionMaps], Tensor, tuple[int, int]]],
) -> dict[str, Pointing]:
    """The pointing game and the energy for images with any number of objects, e.g. a detector's: see `pointing`.

    A hit may lie in any of the boxes. There is no single class to explain, so no Grad-CAM.

    Args:
        images: for each image the maps (1, ...) by site, boxes (n, 4), xyxy in pixels, and the size (height, width).

    Raises:
        ValueError: without images, or for a box that does not overlap its image.
    """
    scores_by_site: dict[str, dict[str, list[_Score]]] = {}
    kinds: dict[str, str] = {}
    count = 0
    for sites, boxes, size in images:
        count += 1
        targets = _Targets(boxes.cpu(), 0, size, together=True)
        prior = centred(size)[None]
        for site, maps in sites.items():
            kinds[site] = place_map_name(maps)
            scores = {"attention": targets.score(place_map(maps), strength(maps)), "chance": targets.chance()}
            for name, score in (scores | {"centre": targets.score(prior, prior)}).items():
                scores_by_site.setdefault(site, {}).setdefault(name, []).append(score)
    if not count:
        raise ValueError("there are no images with objects to examine")
    return _pointing(scores_by_site, kinds)


def _pointing(scores_by_site: dict[str, dict[str, "list[_Score]"]], kinds: dict[str, str]) -> dict[str, Pointing]:
    hits, energy = {}, {}
    for site, lists in scores_by_site.items():
        hits[site] = {name: torch.cat([score.hits for score in scores]) for name, scores in lists.items()}
        energy[site] = {name: torch.cat([score.energy for score in scores]) for name, scores in lists.items()}
    all_hits, all_energy = _summaries(hits, "hit"), _summaries(energy, "energy")
    counts = {site: len(values["attention"]) for site, values in hits.items()}
    return {site: Pointing(counts[site], kinds[site], all_hits[site], all_energy[site]) for site in scores_by_site}


class _Score(NamedTuple):
    hits: Tensor  #: float64 (N,), on the CPU
    energy: Tensor


class _Targets:
    """The boxes of a batch as masks over its images: the share of each pixel that lies inside."""

    def __init__(self, boxes: Tensor, first: int, size: tuple[int, int], *, together: bool = False) -> None:
        """`boxes` has one box per image, starting at image `first`; if `together`, all boxes of one image."""
        height, width = self.size = size
        self.inside = _mask(boxes, size)
        empty = ~boxes.double().isfinite().all(1) | ~(self.inside > 0).flatten(1).any(1)
        if empty.any():
            index = int(empty.nonzero()[0])
            raise ValueError(
                f"the box of image {first + index}, {boxes[index].tolist()}, does not overlap the image of {height} x "
                f"{width} pixels: boxes are xyxy in pixels of the images as the network sees them"
            )
        grown = boxes.double() + TOLERANCE * min(size) * torch.tensor([-1, -1, 1, 1], device=boxes.device)
        self.grown = (_mask(grown, size) >= 0.5).double()  # pixels whose centre lies inside
        if together:
            self.inside, self.grown = self.inside.amax(0, keepdim=True), self.grown.amax(0, keepdim=True)

    def chance(self) -> _Score:
        return _Score(self.grown.mean((1, 2)).cpu(), self.inside.mean((1, 2)).cpu())

    def score(self, ranking: Tensor, values: Tensor) -> _Score:
        """Scores from two maps (N, h, w): the maximum of `ranking` points; the sum of `values` (>= 0) is the energy."""
        ranks = levels(ranking, self.size)
        maximal = (ranks == ranks.amax((1, 2), keepdim=True)).double()
        energy = shares(upsampled(values, self.size)) * self.inside
        return _Score(((maximal * self.grown).sum((1, 2)) / maximal.sum((1, 2))).cpu(), energy.sum((1, 2)).cpu())


def _mask(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The share of each pixel inside the box: (N, 4) -> float64 (N, H, W)."""
    sides = []
    for side, (low, high) in zip(size, ((1, 3), (0, 2)), strict=True):
        start = torch.arange(side, device=boxes.device, dtype=torch.float64)
        first, last = (boxes[:, [k]].double() for k in (low, high))
        sides.append((torch.minimum(start + 1, last) - torch.maximum(start, first)).clamp(0, 1))
    return sides[0][:, :, None] * sides[1][:, None, :]


def _summaries(values: dict[str, dict[str, Tensor]], measure: str) -> dict[str, Scores]:
    """Site -> its `Scores`; `values` is site -> "attention" or a reference -> one score per image (n,)."""
    summaries, differences = {}, {}
    for site, scores in values.items():
        others = [name for name in scores if name != "attention"]
        paired = {f"minus {name}": scores["attention"] - scores[name] for name in others}
        named = {f"{measure}, {name}": score for name, score in (scores | paired).items()}
        results = estimates(named, len(values))
        summaries[site] = results[f"{measure}, attention"], {name: results[f"{measure}, {name}"] for name in others}
        differences[site] = {name: results[f"{measure}, minus {name}"] for name in others}
    corrected = over_sites(differences)
    return {site: Scores(*summaries[site], corrected[site], _verdict(corrected[site])) for site in values}


def _verdict(differences: dict[str, Estimate]) -> str:
    match differences["chance"].sign:
        case None:
            return NO_VERDICT
        case 0:
            return "no difference from chance shown"
        case -1:
            return "it points away from the object: it hits less often than chance"
    better, equal = ([_NAMES[name] for name, diff in differences.items() if diff.sign == sign] for sign in (-1, 0))
    notes = [f"{' and '.join(better)} {'does' if len(better) == 1 else 'do'} better"] if better else []
    notes += [f"no difference from {' and '.join(equal)} shown"] if equal else []
    *names, last = [_NAMES[name] for name in differences]
    best = f"it points at the object, better than {', '.join(names)} and {last}"
    return f"it points at the object; {'; '.join(notes)}" if notes else best
