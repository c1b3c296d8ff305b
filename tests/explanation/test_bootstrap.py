import math

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from bam.explanation.bootstrap import FEWEST, Estimate, estimates, over_sites


def test_intervals_are_those_of_scipy():
    values = torch.rand(200, generator=torch.Generator().manual_seed(1)).double() ** 2
    found = estimates({"x": values})["x"]
    judge = bootstrap(
        (values.numpy(),), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert found.mean == pytest.approx(values.mean().item()) and found.num_images == 200
    assert found.interval == pytest.approx((judge.low, judge.high), abs=0.003)


def test_paired_differences_are_sharper_than_their_parts():
    generator = torch.Generator().manual_seed(0)
    easy = torch.rand(100, generator=generator)
    harder = easy - 0.02 - 0.01 * torch.rand(100, generator=generator)
    found = estimates({"easy": easy, "harder": harder, "difference": harder - easy})
    assert found["difference"].sign == -1
    assert found["harder"].interval[1] > found["easy"].interval[0]


def test_fixed_seed_and_equal_values():
    values = {"a": torch.rand(30), "b": torch.full((30,), 0.1)}
    assert estimates(values) == estimates(values)
    assert estimates(values)["b"].interval == (values["b"][0].item(),) * 2
    assert estimates({"zero": torch.zeros(30)})["zero"].sign == 0


def test_many_sites_leave_room_for_verdicts():
    values = {"x": 1 + 0.01 * torch.randn(100, generator=torch.Generator().manual_seed(0))}
    results = over_sites({f"site {k}": estimates(values, 80) for k in range(80)})
    assert all(each["x"].sign == 1 for each in results.values())


def test_few_images_have_no_interval():
    for number in (1, FEWEST - 1):
        found = estimates({"x": torch.ones(number)})["x"]
        assert found.interval is None and found.sign is None and found.mean == 1
    assert estimates({"x": torch.ones(FEWEST)})["x"].sign == 1


def test_nothing_and_what_is_not_finite_raise():
    with pytest.raises(ValueError, match="no images"):
        estimates({"x": torch.zeros(0)})
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="x: the value for image 1 is not finite"):
            estimates({"x": torch.tensor([0.0, wrong])})


def test_holms_correction_over_sites_needs_more_evidence():
    """p-values 0.01, 0.02 and 0.03 of three sites become 0.03, 0.04 and 0.04; 0.04 alone stays."""
    differences = {
        f"site{number}": {"chance": Estimate(1.0, (0.1, 2.0), 20, p), "centre": Estimate(1.0, (0.1, 2.0), 20, 0.04)}
        for number, p in enumerate((0.03, 0.01, 0.02))
    }
    corrected = over_sites(differences)
    assert [round(each["chance"].holm_p, 9) for each in corrected.values()] == [0.04, 0.03, 0.04]
    assert [each["chance"].sign for each in corrected.values()] == [1, 1, 1]
    assert all(each["centre"].holm_p == pytest.approx(0.12) and each["centre"].sign == 0 for each in corrected.values())
    assert over_sites({"one": differences["site0"]})["one"]["centre"].sign == 1
    none = Estimate(1.0, None, 3)
    assert over_sites({"one": {"chance": none}, "two": {"chance": none}})["two"]["chance"] == none


def test_p_values_agree_with_the_intervals():
    generator = torch.Generator().manual_seed(0)
    for shift in (-1, -0.45, 0, 0.45, 1):
        (one,) = estimates({"x": torch.randn(20, generator=generator) + shift}).values()
        assert (one.p < 0.05) == (one.interval[0] > 0 or one.interval[1] < 0)
    assert estimates({"x": torch.zeros(20)})["x"].p == 1
    assert estimates({"x": torch.ones(20)})["x"].p == pytest.approx(2 / 2001)
