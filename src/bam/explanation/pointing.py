"""Where the attention points: at the object, or beside it?"""

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

TOLERANCE = 15 / 224  #: of the pointing game, as a share of the image's shorter side
_NAMES = {"chance": "chance", "centre": "the centre of the image", "grad_cam": "Grad-CAM"}


@dataclass(frozen=True)
class Scores:
    """One measure at one site: of the attention, of what it is compared with, and the paired differences."""

    attention: Estimate
    others: dict[str, Estimate]  #: "chance", "centre" and, of classifiers, "grad_cam"
    differences: dict[str, Estimate]  #: attention minus each of them, image by image
    verdict: str  #: the conclusion that the intervals support


@dataclass(frozen=True)
class Pointing:
    """Where the attention at one site points."""

    num_images: int
    place_map: str  #: "spatial logits" or "gain": what was looked at
    hits: Scores  #: pointing game: share of images where the maximum lies within the box, up to the tolerance
    energy: Scores  #: share of the map's sum inside the box


def pointing(network: nn.Module, batches: Batches, boxes: Tensor) -> dict[str, Pointing]:
    """The pointing game and the energy inside the box, at each site, with 95 % bootstrap intervals over images.

    Pointing game (Zhang et al., https://arxiv.org/abs/1608.00507): a hit if the maximum of the upsampled map lies in
    the box grown by 15 pixels of 224. If several pixels are the maximum, the share of them that hit; a constant map
    therefore scores chance. Energy (Wang et al., https://arxiv.org/abs/1910.01279): share of the upsampled map's sum
    inside the box. Both are compared with chance (the share of the image's area), a Gaussian at the centre, and
    Grad-CAM of the true class.

    Args:
        network: a classifier with attention; it is left as it was.
        batches: normalised images (N, 3, H, W) and their classes (N,).
        boxes: (n, 4), xyxy in pixels of these images, in their order.

    Raises:
        ValueError: for boxes that do not fit the images; as `bam.explanation.attention_statistics`.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes are (n, 4), xyxy in pixels, got {tuple(boxes.shape)}")
    kept: dict[str, dict[str, list[_Score]]] = {}
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
            own = targets.score(place_map(maps), strength(maps))
            scores = {"attention": own, **common, "grad_cam": targets.score(cams[site], cams[site])}
            for name, score in scores.items():
                kept.setdefault(site, {}).setdefault(name, []).append(score)
    if count != len(boxes):
        raise ValueError(f"there are {len(boxes)} boxes for {count} images: every image needs one")
    return _pointing(kept, kinds)


def pointing_at_objects(
    images: Iterable[tuple[Mapping[str, AttentionMaps], Tensor, tuple[int, int]]],
) -> dict[str, Pointing]:
    """The pointing game and the energy for images with any number of objects, e.g. of a detector: see `pointing`.

    A hit lies in any of the boxes. There is no class to explain, and so no Grad-CAM.

    Args:
        images: for each the maps (1, ...) of every site, boxes (n, 4), xyxy in pixels, and the size (height, width).

    Raises:
        ValueError: without images, or for boxes that cover nothing of their image.
    """
    kept: dict[str, dict[str, list[_Score]]] = {}
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
                kept.setdefault(site, {}).setdefault(name, []).append(score)
    if not count:
        raise ValueError("there are no images with objects to look at")
    return _pointing(kept, kinds)


def _pointing(kept: dict[str, dict[str, "list[_Score]"]], kinds: dict[str, str]) -> dict[str, Pointing]:
    hits, energy = {}, {}
    for site, lists in kept.items():
        hits[site] = {name: torch.cat([score.hits for score in scores]) for name, scores in lists.items()}
        energy[site] = {name: torch.cat([score.energy for score in scores]) for name, scores in lists.items()}
    all_hits, all_energy = _summaries(hits, "hit"), _summaries(energy, "energy")
    counts = {site: len(each["attention"]) for site, each in hits.items()}
    return {site: Pointing(counts[site], kinds[site], all_hits[site], all_energy[site]) for site in kept}


class _Score(NamedTuple):
    hits: Tensor  #: float64 (N,), on the CPU
    energy: Tensor


class _Targets:
    """The boxes of a batch, as masks over its images: which share of each pixel lies inside."""

    def __init__(self, boxes: Tensor, first: int, size: tuple[int, int], *, together: bool = False) -> None:
        """One box per image from number `first` on; or `together`, all boxes of one image."""
        height, width = self.size = size
        self.inside = _mask(boxes, size)
        empty = ~boxes.double().isfinite().all(1) | ~(self.inside > 0).flatten(1).any(1)
        if empty.any():
            wrong = int(empty.nonzero()[0])
            raise ValueError(
                f"the box of image {first + wrong}, {boxes[wrong].tolist()}, covers nothing of the image of {height} x "
                f"{width} pixels: boxes are xyxy in pixels of the images as the network sees them"
            )
        grown = boxes.double() + TOLERANCE * min(size) * torch.tensor([-1, -1, 1, 1], device=boxes.device)
        self.grown = (_mask(grown, size) >= 0.5).double()  # pixels whose centre lies within
        if together:
            self.inside, self.grown = self.inside.amax(0, keepdim=True), self.grown.amax(0, keepdim=True)

    def chance(self) -> _Score:
        return _Score(self.grown.mean((1, 2)).cpu(), self.inside.mean((1, 2)).cpu())

    def score(self, ranking: Tensor, values: Tensor) -> _Score:
        """Of maps (N, h, w): one whose maximum points, and one that is not negative, whose sum is the energy."""
        ranks = levels(ranking, self.size)
        maximal = (ranks == ranks.amax((1, 2), keepdim=True)).double()
        energy = shares(upsampled(values, self.size)) * self.inside
        return _Score(((maximal * self.grown).sum((1, 2)) / maximal.sum((1, 2))).cpu(), energy.sum((1, 2)).cpu())


def _mask(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Share of each pixel inside the box: (N, 4) -> float64 (N, H, W)."""
    sides = []
    for side, (low, high) in zip(size, ((1, 3), (0, 2)), strict=True):
        start = torch.arange(side, device=boxes.device, dtype=torch.float64)
        first, last = (boxes[:, [k]].double() for k in (low, high))
        sides.append((torch.minimum(start + 1, last) - torch.maximum(start, first)).clamp(0, 1))
    return sides[0][:, :, None] * sides[1][:, None, :]


def _summaries(values: dict[str, dict[str, Tensor]], measure: str) -> dict[str, Scores]:
    """Site -> the scores of its map and of what it is compared with, (n,) each -> site -> summary."""
    summaries, differences = {}, {}
    for site, each in values.items():
        others = [name for name in each if name != "attention"]
        paired = {f"minus {name}": each["attention"] - each[name] for name in others}
        named = {f"{measure}, {name}": one for name, one in (each | paired).items()}
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
            return "it points away from the object: less often there than chance"
    better, equal = ([_NAMES[name] for name, each in differences.items() if each.sign == sign] for sign in (-1, 0))
    notes = [f"{' and '.join(better)} {'does' if len(better) == 1 else 'do'} better"] if better else []
    notes += [f"no difference from {' and '.join(equal)} shown"] if equal else []
    *names, last = [_NAMES[name] for name in differences]
    best = f"it points at the object, better than {', '.join(names)} and {last}"
    return f"it points at the object; {'; '.join(notes)}" if notes else best
