import math

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from bam.explanation.bootstrap import FEWEST, estimates


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


def test_few_images_have_no_interval():
    for number in (1, FEWEST - 1):
        found = estimates({"x": torch.ones(number)})["x"]
        assert found.interval is None and found.sign is None and found.mean == 1
    assert estimates({"x": torch.ones(FEWEST)})["x"].sign == 1


def test_nothing_and_what_is_not_finite_raise():
    with pytest.raises(ValueError, match="no images"):
        estimates({"x": torch.zeros(0)})
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="x: the value of image 1 is not finite"):
            estimates({"x": torch.tensor([0.0, wrong])})
