"""Statistics of a paired comparison: differences per seed, their mean and its confidence interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """Variant minus baseline, seed by seed, for a measure where lower (or, if stated, higher) is better."""

    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None  #: None if the spread cannot be estimated
    confidence: float
    higher_is_better: bool = False

    @property
    def verdict(self) -> str:
        """The conclusion that the interval supports, in words."""
        n = len(self.differences)
        if n == 1:
            return "no verdict: one seed has no spread"
        if self.interval is None:
            return f"no verdict: all {n} differences are equal, which says nothing about their spread"
        low, high = self.interval
        if low <= 0 <= high:
            return f"no difference shown with n={n}"
        return "better" if (low > 0) == self.higher_is_better else "worse"


def paired_difference(
    baseline: Sequence[float], variant: Sequence[float], confidence: float = 0.95, *, higher_is_better: bool = False
) -> Difference:
    """The mean of variant - baseline over pairs, with its Student's t interval (n - 1 degrees of freedom).

    Raises:
        ValueError: if there are no pairs, or the lengths differ.
    """
    if len(baseline) != len(variant) or not baseline:
        raise ValueError(f"values must come in pairs, got {len(baseline)} for the baseline and {len(variant)}")
    differences = tuple(v - b for b, v in zip(baseline, variant, strict=True))
    n, mean = len(differences), math.fsum(differences) / len(differences)
    interval = None
    deviation = standard_deviation(differences)
    if deviation is not None and deviation > 1e-12:
        from scipy.stats import t

        half = float(t.ppf((1 + confidence) / 2, n - 1)) * deviation / math.sqrt(n)
        interval = (mean - half, mean + half)
    return Difference(differences, mean, interval, confidence, higher_is_better)


def standard_deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n - 1 in the denominator); None for a single value."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
