"""The paired statistics, by hand and against scipy."""

import pytest
from scipy import stats

from bam.reports import paired_difference


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
        ([10, 11], [9, 10], "no verdict: all 2 differences are equal, which says nothing about their spread"),
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
