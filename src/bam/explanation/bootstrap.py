"""Means over images with bootstrap intervals; differences are paired by image."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST = 10  #: images needed for an interval: with fewer, the percentile bootstrap is too narrow
NO_VERDICT = f"no verdict: fewer than {FEWEST} images"
LEVEL = 0.05  #: significance level for all sites together
_RESAMPLES, _SEED, _AT_ONCE = 2000, 0, 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its 95 % bootstrap interval."""

    mean: float
    interval: tuple[float, float] | None  #: None with fewer than `FEWEST` images
    num_images: int
    p: float | None = None  #: two-sided: twice the share of resampled means across zero; None without an interval
    holm_p: float | None = None  #: p corrected for all sites, see `over_sites`; None if uncorrected

    @property
    def sign(self) -> int | None:
        """1 or -1 if the interval lies above or below zero, 0 if it contains zero, None without an interval.

        Also 0 if the correction for several sites removes the evidence, that is if `holm_p` exceeds `LEVEL`.
        """
        if self.interval is None:
            return None
        if self.holm_p is not None and self.holm_p > LEVEL:
            return 0
        low, high = self.interval
        return 1 if low > 0 else -1 if high < 0 else 0


def estimates(values: Mapping[str, Tensor], sites: int = 1) -> dict[str, Estimate]:
    """The mean of each quantity (n,) over the same n images, with percentile bootstrap intervals (Efron 1979).

    All quantities share their resamples, drawn with a fixed seed: 2,000, or 100 per site if there are many `sites`, so
    that verdicts are still possible after the correction in `over_sites`. For a paired difference, pass the difference
    of each image.

    Raises:
        ValueError: without images, or for a value that is not finite.
    """
    for name, quantity in values.items():
        if not len(quantity):
            raise ValueError("there are no images to average over")
        if not quantity.isfinite().all():
            raise ValueError(f"{name}: the value for image {int((~quantity.isfinite()).nonzero()[0])} is not finite")
    table = torch.stack([quantity.detach().cpu().double() for quantity in values.values()], dim=1)
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

    The smallest of m p-values is multiplied by m, the next one by m - 1, and so on; the products never decrease.
    """
    corrected = {site: dict(comparisons) for site, comparisons in differences.items()}
    for name in next(iter(corrected.values()), {}):
        p_values = [(comparisons[name].p, site) for site, comparisons in differences.items()]
        family = sorted((p, site) for p, site in p_values if p is not None)
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
    resampled = torch.where(equal, table[0], resampled)  # the mean of equal values, without rounding
    beyond = torch.minimum((resampled <= 0).sum(0), (resampled >= 0).sum(0))
    p = (2 * (beyond + 1) / (len(resampled) + 1)).clamp(max=1)
    return torch.cat([resampled.quantile(level, dim=0), p[None]])
