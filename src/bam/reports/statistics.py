"""Paired differences with confidence intervals, Holm's correction, and an interval for a share."""

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

_ROUNDING = 16 * sys.float_info.epsilon  #: a deviation below this share of the largest value is rounding


@dataclass(frozen=True)
class Difference:
    """Variant minus baseline, seed by seed; lower is better unless `higher_is_better`."""

    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None  #: None if the spread cannot be estimated
    confidence: float
    higher_is_better: bool = False
    p: float | None = None  #: two-sided p-value of the mean under no difference; None without an interval

    @property
    def seeds_to_halve(self) -> int | None:
        """The number of seeds that would halve the interval if the spread stays the same; None without an interval."""
        deviation = standard_deviation(self.differences)
        if self.interval is None or not deviation:
            return None
        goal = (self.interval[1] - self.interval[0]) / 4
        number = len(self.differences)
        while _half_width(deviation, number, self.confidence) > goal:
            number += 1
        return number

    @property
    def verdict(self) -> str:
        """The conclusion that the interval supports."""
        n = len(self.differences)
        if n == 1:
            return "no verdict: one seed has no spread"
        if self.interval is None:
            return f"no verdict: all {n} differences are equal, so their spread is unknown"
        low, high = self.interval
        if low <= 0 <= high:
            return f"no difference shown with n={n}"
        return "better" if (low > 0) == self.higher_is_better else "worse"


def paired_difference(
    baseline: Sequence[float], variant: Sequence[float], confidence: float = 0.95, *, higher_is_better: bool = False
) -> Difference:
    """The mean of variant - baseline over pairs, with its Student's t interval (n - 1 degrees of freedom).

    Raises:
        ValueError: if there are no pairs, the lengths differ, or a value is not finite.
    """
    if len(baseline) != len(variant) or not baseline:
        raise ValueError(f"values must come in pairs, got {len(baseline)} for the baseline and {len(variant)}")
    if not all(map(math.isfinite, (*baseline, *variant))):
        raise ValueError(f"values must be finite, got {list(baseline)} for the baseline and {list(variant)}")
    differences = tuple(v - b for b, v in zip(baseline, variant, strict=True))
    n, mean = len(differences), math.fsum(differences) / len(differences)
    interval = p = None
    deviation = standard_deviation(differences)
    if deviation is not None and deviation > _ROUNDING * max(map(abs, (*baseline, *variant))):
        from scipy.stats import t

        half = _half_width(deviation, n, confidence)
        interval = (mean - half, mean + half)
        p = 2 * float(t.sf(abs(mean) * math.sqrt(n) / deviation, n - 1))
    return Difference(differences, mean, interval, confidence, higher_is_better, p)


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """The differences with simultaneous intervals: all hold together with the confidence of each (Holm 1979).

    The smallest of m p-values gets an interval of confidence 1 - a/m, the next one 1 - a/(m - 1), and so on. After the
    first interval that contains zero, no difference is shown, and all others get that interval's confidence.
    """
    known = [k for k in range(len(differences)) if differences[k].p is not None]
    corrected = list(differences)
    remaining, stopped = len(known), False
    for k in sorted(known, key=lambda k: differences[k].p or 0.0):
        plain = differences[k]
        confidence = 1 - (1 - plain.confidence) / remaining
        deviation = standard_deviation(plain.differences)
        assert deviation is not None
        half = _half_width(deviation, len(plain.differences), confidence)
        corrected[k] = dataclasses.replace(
            plain, interval=(plain.mean - half, plain.mean + half), confidence=confidence
        )
        stopped = stopped or abs(plain.mean) <= half
        if not stopped:
            remaining -= 1
    return corrected


def detectable_difference(deviation: float, n: int, confidence: float = 0.95, power: float = 0.8) -> float | None:
    """The mean difference that n pairs detect with probability `power`, given the deviation of their differences.

    None for a single pair.
    """
    if n < 2:
        return None
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, n - 1) + t.ppf(power, n - 1)) * deviation / math.sqrt(n)


def wilson_interval(count: int, total: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval for the share `count` of `total` (Wilson 1927); None if `total` is 0.

    With n = total, p = count / n and z the normal quantile of the confidence, it is
    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n). It stays within 0 and 1, and has a width even
    for a count of 0.

    Raises:
        ValueError: for a count outside 0 to `total`.
    """
    if not 0 <= count <= total:
        raise ValueError(f"count must be from 0 to the total, {total}; got {count}")
    if not total:
        return None
    z, share = NormalDist().inv_cdf((1 + confidence) / 2), count / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) / scale
    return (0.0 if count == 0 else middle - half), (1.0 if count == total else middle + half)


def _half_width(deviation: float, n: int, confidence: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, n - 1)) * deviation / math.sqrt(n)


def standard_deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n - 1 in the denominator); None for a single value."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
