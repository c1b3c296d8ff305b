import dataclasses
import json

import pytest
import torch

import bam
from bam.data import digits
from bam.data.dataset import Dataset
from bam.explanation import examine
from bam.models import build
from tests.explanation.synthetic import assert_unchanged, traces


def network():
    torch.manual_seed(0)
    return bam.attach(build("cifar/resnet8", 10), image=16)


def data(number=24):
    return digits(canvas=16, num_train=24, num_test=number)


def test_everything_as_strict_json():
    train, test = data()
    model, calls = network(), []
    before = traces(model)

    def track(items, total, title):
        for number, item in enumerate(items, start=1):
            yield item
            calls.append((title, number, total))

    results = examine(model, test, train.normalization(), limit=4, track=track)
    assert_unchanged(before, model)
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert list(results) == ["num_images", "num_unreadable", "statistics", "pointing", "faithfulness", "ablations"]
    sites = list(bam.attended(model))
    assert results["num_images"] == 4 and results["num_unreadable"] == 0
    assert all(list(results[part]) == sites for part in list(results)[2:5])
    assert calls == [(part, 1, 1) for part in list(results)[2:]]
    assert results == examine(model, test, train.normalization(), limit=4)


def test_without_boxes_and_with_a_single_image():
    train, test = data(1)
    unboxed = Dataset(test.images, test.targets, test.classes)
    results = examine(network(), unboxed, train.normalization(), limit=None)
    assert results["pointing"] is None and results["num_images"] == 1
    json.dumps(results, allow_nan=False)
    assert examine(network(), test, train.normalization())["pointing"] is not None


def test_only_the_parts_asked_for():
    train, test = data(4)
    results = examine(network(), test, train.normalization(), parts=("ablations",))
    assert list(results) == ["num_images", "num_unreadable", "statistics", "ablations"]


def test_what_cannot_be_examined_is_refused():
    train, test = data()
    mean_and_deviation = train.normalization()
    with pytest.raises(ValueError, match="limit must be at least 1"):
        examine(network(), test, mean_and_deviation, limit=0)
    with pytest.raises(ValueError, match="3 boxes for 24 images"):
        examine(network(), dataclasses.replace(test, boxes=test.boxes[:3]), mean_and_deviation)
    with pytest.raises(ValueError, match="no images"):
        examine(network(), test.subset(torch.zeros(0, dtype=torch.int64)), mean_and_deviation)
    with pytest.raises(ValueError, match="no attention"):
        examine(bam.detach(network()), test, mean_and_deviation)
