"""The paired statistics, by hand and against scipy."""

import numpy as np
import pytest
from scipy import stats

from bam.reports import paired_difference
from bam.reports.statistics import detectable_difference, holm, wilson_interval


def test_by_hand():
    """Differences -1, -2, -3: mean -2, deviation 1, t(2 degrees, 97.5 %) = 4.302653, half-width 4.302653 / sqrt(3)."""
    difference = paired_difference([10, 11, 12], [9, 9, 9])
    assert difference.differences == (-1, -2, -3) and difference.mean == -2
    assert difference.interval == pytest.approx((-2 - 2.484138, -2 + 2.484138), abs=1e-6)
    assert difference.verdict == "no difference shown with n=3"


def test_against_scipy():
    baseline, variant = [20.1, 21.3, 19.8, 20.6, 20.9], [19.0, 20.5, 19.1, 19.2, 20.3]
    expected = stats.ttest_rel(variant, baseline).confidence_interval(0.9)
    assert paired_difference(baseline, variant, 0.9).interval == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("baseline", "variant", "verdict"),
    [
        ([10, 11, 12], [9, 10.1, 11], "better"),
        ([9, 10.1, 11], [10, 11, 12], "worse"),
        ([10, 11], [9, 12], "no difference shown with n=2"),
        ([10], [1], "no verdict: one seed has no spread"),
        ([10, 11], [9, 10], "no verdict: all 2 differences are equal, so their spread is unknown"),
    ],
)
def test_verdicts(baseline, variant, verdict):
    difference = paired_difference(baseline, variant)
    assert difference.verdict == verdict
    assert (difference.interval is None) == verdict.startswith("no verdict")


@pytest.mark.parametrize(("baseline", "variant"), [([], []), ([1, 2], [1])])
def test_what_is_no_pair(baseline, variant):
    with pytest.raises(ValueError, match="must come in pairs"):
        paired_difference(baseline, variant)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="values must be finite"):
        paired_difference([1.0, float("nan")], [1.0, 2.0])


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_equal_differences_of_any_size_have_no_interval(scale):
    difference = paired_difference([0.1 * scale, 0.7 * scale, 3.3 * scale], [0.2 * scale, 0.8 * scale, 3.4 * scale])
    assert difference.interval is None and difference.verdict.startswith("no verdict: all 3 differences are equal")
    spread = paired_difference([0.0, 0.0], [1e-13 * scale, 2e-13 * scale])
    assert spread.interval is not None


def test_holm_by_hand():
    """p-values 0.0004, 0.03 and 0.04 of three comparisons: alpha is divided by 3, then by 2, and there it stops."""
    rows = [[-3.0, -3.1, -2.9, -3.05], [-0.9, -1.6, -0.5, -1.9], [0.4, 1.9, 0.9, 1.7]]
    plain = [paired_difference([0.0] * 4, row) for row in rows]
    assert [one.verdict for one in plain] == ["better", "better", "worse"]
    for one, row in zip(plain, rows, strict=True):
        assert one.p == pytest.approx(stats.ttest_1samp(row, 0).pvalue)
    first, *others = holm(plain)
    assert first.confidence == pytest.approx(1 - 0.05 / 3) and first.verdict == "better"
    for one in others:
        assert one.confidence == pytest.approx(0.975) and one.verdict == "no difference shown with n=4"
    low, high = stats.ttest_1samp(rows[1], 0).confidence_interval(0.975)
    assert others[0].interval == pytest.approx((low, high))
    (alone,) = holm([plain[1]])
    assert alone.interval == pytest.approx(plain[1].interval)


def test_seeds_that_halve_an_interval():
    differences = [0.1, 0.9, -0.4, 0.6, 0.3]
    difference = paired_difference([0.0] * 5, differences)
    n, deviation = difference.seeds_to_halve, stats.tstd(differences)
    half = (difference.interval[1] - difference.interval[0]) / 2
    assert stats.t.ppf(0.975, n - 1) * deviation / n**0.5 <= half / 2
    assert stats.t.ppf(0.975, n - 2) * deviation / (n - 1) ** 0.5 > half / 2
    assert paired_difference([0.0], [1.0]).seeds_to_halve is None


def test_differences_of_that_size_are_shown_four_times_in_five():
    least = detectable_difference(1.0, 6)
    random = np.random.default_rng(0).normal(least, 1.0, (4000, 6))
    shown = [paired_difference([0.0] * 6, row.tolist()).verdict == "worse" for row in random[:1500]]
    assert 0.74 < np.mean(shown) < 0.86
    assert detectable_difference(1.0, 1) is None


@pytest.mark.parametrize(("count", "total"), [(0, 10), (10, 10), (1, 1), (0, 1), (3, 20), (60, 500), (1559, 2000)])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_wilson_interval_against_scipy(count, total, confidence):
    expected = stats.binomtest(count, total).proportion_ci(confidence, method="wilson")
    assert wilson_interval(count, total, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_by_hand():
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, Statistics in Medicine 17, table I)."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 0) is None
    assert wilson_interval(0, 20)[0] == 0 and wilson_interval(20, 20)[1] == 1
    with pytest.raises(ValueError, match="from 0 to the total, 3; got 4"):
        wilson_interval(4, 3)
