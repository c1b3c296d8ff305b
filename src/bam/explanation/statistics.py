"""Statistics of the attention over a data set: dead and constant maps, entropy, gain and class selectivity."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bam.attention.contract import AttentionMaps
from bam.explanation.passes import Batches, watched
from bam.explanation.places import place_map, place_map_name, shares, strength

TOLERANCE = 0.01  #: values of a map this close to 0, to 1 or to each other count as equal
SATURATED = 0.99  #: share of a saturated map's values that must be near 0 or 1
_LOGIT_LIMIT = 1e-7  #: closer to 0 or 1 than this, a float32 sigmoid does not determine its logit


@dataclass(frozen=True)
class BranchShares:
    """Shares of the variance of an image's combined logits (C, H, W); they add up to 1.

    From the channel means, from the place means, and the rest (0 if the logits are added).
    """

    channel: float
    spatial: float
    interaction: float


@dataclass(frozen=True)
class ClassAttention:
    """How the channel attention sigmoid(Mc(F)) differs between classes.

    Selectivity is eta squared, the variance between classes over the total variance (Fisher 1925, correlation ratio).
    For k classes with images and n images, channels without class information have (k - 1) / (n - 1) on average.
    """

    means: tuple[tuple[float, ...] | None, ...]  #: per class, C values; None for a class without images
    selectivity: tuple[float | None, ...]  #: per channel, 0 to 1; None for a channel that never varies
    selectivity_by_chance: float | None  #: None if every class has one image


@dataclass(frozen=True)
class SiteStatistics:
    """Statistics of the attention at one site; None if its module has no such map."""

    num_images: int
    place_map: str  #: the map that entropy and constancy refer to: "spatial logits" or "gain"
    dead: float  #: share of images whose gain is below `TOLERANCE` everywhere
    saturated: float | None  #: share of images whose map is within `TOLERANCE` of 0 or 1 nearly everywhere
    constant: float | None  #: share of images whose map varies by less than `TOLERANCE` over places; None for 1x1 maps
    entropy: float | None  #: mean entropy of the map over places, 0 (one place) to 1 (uniform); None for 1x1 maps
    entropy_deviation: float | None  #: standard deviation of the entropy over images (dividing by n)
    mean_gain: float
    branches: BranchShares | None  #: None unless the module has both branches and their logits vary
    classes: ClassAttention | None  #: None without channel logits


def attention_statistics(network: nn.Module, batches: Batches) -> dict[str, SiteStatistics]:
    """Statistics of the attention at each site over all images; memory does not grow with their number.

    Args:
        network: a classifier with attention; its state is restored.
        batches: normalised images (N, 3, H, W) and their classes (N,).

    Raises:
        ValueError: without attention or images, for classes that the network lacks, or values that are not finite.
    """
    sums: dict[str, _Sums] = {}
    for batch, logits, sites in watched(network, batches):
        for site, maps in sites.items():
            sums.setdefault(site, _Sums(maps, logits.shape[1])).add(maps, batch.classes.cpu())
    return {site: site_sums.statistics() for site, site_sums in sums.items()}


class _Sums:
    """Sums of one site's quantities over images, in float64 on the CPU."""

    def __init__(self, maps: AttentionMaps, num_classes: int) -> None:
        self.place_map = place_map_name(maps)
        self.totals: dict[str, float] = {}
        self.num_images = 0
        self.classes = None if maps.channel_logits is None else _ClassSums(maps.channel_logits.shape[1], num_classes)

    def add(self, maps: AttentionMaps, classes: Tensor) -> None:
        self.num_images += len(classes)
        quantities = {"gain": maps.gain.double().mean((1, 2)), "dead": _within(maps.gain, 0)}
        if maps.combined is not None:
            near = ((maps.combined.float() - maps.combined.float().round().clamp(0, 1)).abs() < TOLERANCE).double()
            quantities["saturated"] = near.flatten(1).mean(1) >= SATURATED
        if maps.gain[0].numel() > 1:
            entropy = normalized_entropy(strength(maps))
            quantities |= {"entropy": entropy, "entropy squared": entropy**2, "constant": _is_constant(maps)}
        variances = branch_variances(maps)
        quantities |= {} if variances is None else variances
        for name, values in quantities.items():
            self.totals[name] = self.totals.get(name, 0.0) + values.double().sum().item()
        if self.classes is not None and maps.channel_logits is not None:
            self.classes.add(maps.channel_logits[:, :, 0, 0].cpu().double().sigmoid(), classes)

    def statistics(self) -> SiteStatistics:
        means = {name: total / self.num_images for name, total in self.totals.items()}
        entropy, deviation = means.get("entropy"), None
        if entropy is not None:
            deviation = math.sqrt(max(0.0, means["entropy squared"] - entropy**2))
        return SiteStatistics(
            self.num_images,
            self.place_map,
            means["dead"],
            means.get("saturated"),
            means.get("constant"),
            entropy,
            deviation,
            means["gain"],
            self._branches(),
            None if self.classes is None else self.classes.statistics(),
        )

    def _branches(self) -> BranchShares | None:
        parts = [self.totals.get(name, 0.0) for name in ("channel", "spatial", "interaction")]
        total = math.fsum(parts)
        return BranchShares(*(part / total for part in parts)) if total > 1e-12 * self.num_images else None


class _ClassSums:
    """Per-class sums of the channel attention, and sums of its squares."""

    def __init__(self, channels: int, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, dtype=torch.float64)
        self.sums = torch.zeros(num_classes, channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, attention: Tensor, classes: Tensor) -> None:
        self.counts += torch.bincount(classes, minlength=len(self.counts))
        self.sums.index_add_(0, classes, attention)
        self.squares += (attention**2).sum(0)

    def statistics(self) -> ClassAttention:
        number, present = self.counts.sum(), self.counts > 0
        means = self.sums / self.counts.clamp(min=1)[:, None]
        mean = self.sums.sum(0) / number
        total = self.squares - number * mean**2
        between = (self.counts[:, None] * (means - mean) ** 2).sum(0)
        varies = total > 1e-12 * number
        selectivity = torch.where(varies, between / torch.where(varies, total, 1.0), 0.0).clamp(0, 1)
        count, classes = int(number), int(present.sum())
        return ClassAttention(
            tuple(tuple(row.tolist()) if there else None for row, there in zip(means, present, strict=True)),
            tuple(value if known else None for value, known in zip(selectivity.tolist(), varies.tolist(), strict=True)),
            (classes - 1) / (count - 1) if count > classes else None,
        )


def most_selective(classes: Mapping[str, Any], names: Sequence[str], count: int = 16) -> dict[str, Any]:
    """The channels that tell classes apart best, and the classes that differ most in them.

    Args:
        classes: a `ClassAttention` as plain data.
        names: class names; if empty, classes are named by number.
        count: number of channels, and maximum number of classes.

    Returns: "channels" and their "selectivity", best first; "by_chance"; "means", class -> one value per channel.
    """
    selectivity = classes["selectivity"]
    channels = sorted((k for k, value in enumerate(selectivity) if value is not None), key=lambda k: -selectivity[k])
    channels = channels[:count]
    rows = {
        names[number] if names else str(number): [row[k] for k in channels]
        for number, row in enumerate(classes["means"])
        if row is not None
    }
    centre = [math.fsum(column) / len(rows) for column in zip(*rows.values(), strict=True)]
    far = sorted(rows, key=lambda name: -sum((a - b) ** 2 for a, b in zip(rows[name], centre, strict=True)))[:count]
    return {
        "channels": channels,
        "selectivity": [selectivity[k] for k in channels],
        "by_chance": classes["selectivity_by_chance"],
        "means": {name: row for name, row in rows.items() if name in far},
    }


def normalized_entropy(values: Tensor) -> Tensor:
    """The entropy of each map (N, h, w), normalised to sum 1, over log(hw): float64 (N,), 0 to 1. Not for 1x1 maps."""
    parts = shares(values)
    return -torch.special.xlogy(parts, parts).sum((1, 2)) / math.log(parts[0].numel())


def branch_variances(maps: AttentionMaps) -> dict[str, Tensor] | None:
    """Variance of the combined logits over channels and places (N,), split into channel means, place means and rest.

    The logits are Mc(F) + Ms(F) if that gives the combined map, else the logits of the combined map itself. None for a
    module without both branches.
    """
    channel, spatial, combined = maps.channel_logits, maps.spatial_logits, maps.combined
    if channel is None or spatial is None or combined is None:
        return None
    logits = channel.double() + spatial.double()
    if logits.shape != combined.shape or not torch.allclose(logits.sigmoid().float(), combined.float(), atol=0.01):
        logits = combined.double().clamp(_LOGIT_LIMIT, 1 - _LOGIT_LIMIT).logit()
    mean = logits.mean((1, 2, 3), keepdim=True)
    channel_means = logits.mean((2, 3), keepdim=True) - mean
    place_means = logits.mean(1, keepdim=True) - mean
    rest = logits - mean - channel_means - place_means
    parts = {"channel": channel_means, "spatial": place_means, "interaction": rest}
    return {name: (part**2).flatten(1).mean(1) for name, part in parts.items()}


def _within(values: Tensor, centre: float) -> Tensor:
    """Whether all values of each image are within `TOLERANCE` of `centre`: bool (N,)."""
    return ((values.float() - centre).abs() < TOLERANCE).flatten(1).all(1)


def _is_constant(maps: AttentionMaps) -> Tensor:
    """Whether each image's map is the same at all places, within `TOLERANCE`: bool (N,)."""
    if maps.spatial_logits is not None:
        values = strength(maps)[:, None]
    else:
        values = place_map(maps)[:, None] if maps.combined is None else maps.combined.float()
    return ((values.amax((2, 3)) - values.amin((2, 3))) < TOLERANCE).all(1)
