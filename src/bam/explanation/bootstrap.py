"""Means over images and their bootstrap intervals; differences are paired, image by image."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST = 10  #: images for an interval: the percentile bootstrap of fewer is too narrow
NO_VERDICT = f"no verdict: fewer than {FEWEST} images"
LEVEL = 0.05  #: of all sites together
_RESAMPLES, _SEED, _AT_ONCE = 2000, 0, 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its 95 % bootstrap interval."""

    mean: float
    interval: tuple[float, float] | None  #: None with fewer than `FEWEST` images
    num_images: int
    p: float | None = None  #: share of resampled means on the other side of zero, twice; None without an interval
    holm_p: float | None = None  #: the same corrected for all sites of the network, see `over_sites`; None if it is not

    @property
    def sign(self) -> int | None:
        """1 or -1 if the interval lies above or below zero, 0 if it holds zero, None without an interval.

        It is also 0 where the correction for several sites leaves no evidence: `holm_p` above `LEVEL`.
        """
        if self.interval is None:
            return None
        if self.holm_p is not None and self.holm_p > LEVEL:
            return 0
        low, high = self.interval
        return 1 if low > 0 else -1 if high < 0 else 0


def estimates(values: Mapping[str, Tensor], sites: int = 1) -> dict[str, Estimate]:
    """The mean of each quantity (n,) over the same n images, with percentile bootstrap intervals (Efron 1979).

    All quantities share their resamples, drawn with a fixed seed: 2,000, or 100 for each of many `sites`, so that
    correcting over these (see `over_sites`) leaves room for verdicts. The interval of a paired difference is that of
    the differences per image.

    Raises:
        ValueError: without images, or for a value that is not finite.
    """
    for name, each in values.items():
        if not len(each):
            raise ValueError("there are no images to average over")
        if not each.isfinite().all():
            raise ValueError(f"{name}: the value of image {int((~each.isfinite()).nonzero()[0])} is not finite")
    table = torch.stack([each.detach().cpu().double() for each in values.values()], dim=1)
    number = len(table)
    bounds = _bounds(table, max(_RESAMPLES, 100 * sites)) if number >= FEWEST else None
    return {
        name: Estimate(
            math.fsum(table[:, k].tolist()) / number,
            None if bounds is None else (bounds[0, k].item(), bounds[1, k].item()),
            number,
            None if bounds is None else bounds[2, k].item(),
        )
        for k, name in enumerate(values)
    }


def over_sites(differences: Mapping[str, Mapping[str, Estimate]]) -> dict[str, dict[str, Estimate]]:
    """Site -> comparison -> difference from zero, each comparison corrected over the sites by Holm (1979).

    The smallest of m p-values is multiplied by m, the next one by m - 1, and so on; none becomes less than one before.
    """
    corrected = {site: dict(each) for site, each in differences.items()}
    for name in next(iter(corrected.values()), {}):
        family = sorted((each[name].p or 0.0, site) for site, each in differences.items() if each[name].p is not None)
        largest = 0.0
        for place, (p, site) in enumerate(family):
            largest = max(largest, min(1.0, (len(family) - place) * p))
            corrected[site][name] = dataclasses.replace(corrected[site][name], holm_p=largest)
    return corrected


def _bounds(table: Tensor, resamples: int) -> Tensor:
    """The 2.5th and 97.5th percentiles of resampled means, and the p-value of zero: (n, k) -> (3, k)."""
    number, generator, means = len(table), torch.Generator().manual_seed(_SEED), []
    rows = max(1, _AT_ONCE // (number * table.shape[1]))
    for start in range(0, resamples, rows):
        drawn = torch.randint(number, (min(rows, resamples - start), number), generator=generator)
        means.append(table[drawn].mean(1))
    level = torch.tensor([0.025, 0.975], dtype=torch.float64)
    resampled = torch.cat(means)
    equal = table.amin(0) == table.amax(0)
    resampled = torch.where(equal, table[0], resampled)  # a mean of equal values is that value, without rounding
    beyond = torch.minimum((resampled <= 0).sum(0), (resampled >= 0).sum(0))
    p = (2 * (beyond + 1) / (len(resampled) + 1)).clamp(max=1)
    return torch.cat([resampled.quantile(level, dim=0), p[None]])
