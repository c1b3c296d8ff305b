"""Where the attention points: at the object, or beside it?"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bam.explanation.bootstrap import NO_VERDICT, Estimate, estimates
from bam.explanation.gradcam import grad_cam
from bam.explanation.passes import Batches, watched
from bam.explanation.places import centred, levels, place_map, place_map_name, shares, strength, upsampled

TOLERANCE = 15 / 224  #: of the pointing game, as a share of the image's shorter side
_NAMES = {"chance": "chance", "centre": "the centre of the image", "grad_cam": "Grad-CAM"}


@dataclass(frozen=True)
class Scores:
    """One measure at one site: of the attention, of what it is compared with, and the paired differences."""

    attention: Estimate
    others: dict[str, Estimate]  #: "chance", "centre", "grad_cam"
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
        targets = _Targets(batch.part(boxes), batch.first, batch.images)
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
    results = {}
    for site, lists in kept.items():
        hits = _summary({name: torch.cat([score.hits for score in scores]) for name, scores in lists.items()}, "hit")
        energy = {name: torch.cat([score.energy for score in scores]) for name, scores in lists.items()}
        results[site] = Pointing(count, kinds[site], hits, _summary(energy, "energy"))
    return results


class _Score(NamedTuple):
    hits: Tensor  #: float64 (N,), on the CPU
    energy: Tensor


class _Targets:
    """The boxes of a batch, as masks over its images: which share of each pixel lies inside."""

    def __init__(self, boxes: Tensor, first: int, images: Tensor) -> None:
        height, width = images.shape[2:]
        self.size = (height, width)
        if len(boxes) < len(images):
            raise ValueError(f"there are {first + len(boxes)} boxes for more images: every image needs one")
        self.inside = _mask(boxes, self.size)
        empty = ~boxes.double().isfinite().all(1) | ~(self.inside > 0).flatten(1).any(1)
        if empty.any():
            wrong = int(empty.nonzero()[0])
            raise ValueError(
                f"the box of image {first + wrong}, {boxes[wrong].tolist()}, covers nothing of the image of {height} x "
                f"{width} pixels: boxes are xyxy in pixels of the images as the network sees them"
            )
        grown = boxes.double() + TOLERANCE * min(self.size) * torch.tensor([-1, -1, 1, 1], device=boxes.device)
        self.grown = (_mask(grown, self.size) >= 0.5).double()  # pixels whose centre lies within

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


def _summary(values: dict[str, Tensor], measure: str) -> Scores:
    others = [name for name in values if name != "attention"]
    differences = {f"minus {name}": values["attention"] - values[name] for name in others}
    results = estimates({f"{measure}, {name}": each for name, each in (values | differences).items()})
    compared = {name: results[f"{measure}, minus {name}"] for name in others}
    return Scores(
        results[f"{measure}, attention"],
        {name: results[f"{measure}, {name}"] for name in others},
        compared,
        _verdict(compared),
    )


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
    best = "it points at the object, better than chance, the centre of the image and Grad-CAM"
    return f"it points at the object; {'; '.join(notes)}" if notes else best
