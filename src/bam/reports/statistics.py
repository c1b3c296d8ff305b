"""Statistics: differences of a paired comparison with confidence intervals, and an interval for a share."""

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

_ROUNDING = 16 * sys.float_info.epsilon  #: spread of equal differences, as a share of the largest value


@dataclass(frozen=True)
class Difference:
    """Variant minus baseline, seed by seed, for a measure where lower (or, if stated, higher) is better."""

    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None  #: None if the spread cannot be estimated
    confidence: float
    higher_is_better: bool = False
    p: float | None = None  #: of a mean as far from zero, if there were no difference; two-sided

    @property
    def seeds_to_halve(self) -> int | None:
        """How many seeds would make the interval half as wide, if the spread stays; None without an interval."""
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
    """Differences with intervals that hold together: all of them with the confidence of each one (Holm 1979).

    The smallest of m p-values gets an interval of confidence 1 - a/m, the next one 1 - a/(m - 1), and so on. After the
    first whose interval holds zero, no difference is shown: all others get the confidence of that one.
    """
    known = [k for k in range(len(differences)) if differences[k].p is not None]
    corrected = list(differences)
    remaining, stopped = len(known), False
    for k in sorted(known, key=lambda k: differences[k].p or 0.0):
        one = differences[k]
        confidence = 1 - (1 - one.confidence) / remaining
        deviation = standard_deviation(one.differences)
        assert deviation is not None
        half = _half_width(deviation, len(one.differences), confidence)
        corrected[k] = dataclasses.replace(one, interval=(one.mean - half, one.mean + half), confidence=confidence)
        stopped = stopped or abs(one.mean) <= half
        if not stopped:
            remaining -= 1
    return corrected


def detectable_difference(deviation: float, n: int, confidence: float = 0.95, power: float = 0.8) -> float | None:
    """The mean difference that n pairs show with probability `power`, if their differences have this deviation.

    None for a single pair.
    """
    if n < 2:
        return None
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, n - 1) + t.ppf(power, n - 1)) * deviation / math.sqrt(n)


def wilson_interval(count: int, total: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval for a share, `count` of `total` (Wilson 1927); None if there is nothing to count.

    With p = count / n and z the normal quantile of the confidence, it is
    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n). It stays within 0 and 1, and has a width also
    for no errors at all.

    Raises:
        ValueError: for a count outside 0 to `total`.
    """
    if not 0 <= count <= total:
        raise ValueError(f"a share is of 0 to {total}, got {count}")
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
