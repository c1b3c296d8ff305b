import json

import pytest
import torch

import bam
from bam.explanation import deletion_insertion
from bam.explanation.examination import plain
from bam.explanation.faithfulness import BLUR, blurred, ordered
from bam.explanation.places import levels
from bam.models import build
from tests.conftest import restless
from tests.explanation.synthetic import SIDE, assert_unchanged, batched, pointer, squares, traces


def test_deletion_of_the_one_place_that_matters():
    """The square is a sixteenth of the image: the first of 16 steps deletes or inserts it, and nothing else."""
    images, classes, _ = squares(20)
    model = pointer()
    results = deletion_insertion(model, batched(images, classes, 7))["stem"]
    with torch.no_grad():
        first, last = (model(x).double().softmax(1)[0, 1].item() for x in (images, 0 * images))
    assert results.fractions[1] == 1 / 16 and results.num_images == 20 and results.place_map == "spatial logits"
    assert results.deletion.curves["attention"] == pytest.approx((first, *[last] * 16))
    assert results.deletion.attention.mean == pytest.approx((first + last) / 32 + last * 15 / 16)
    assert results.insertion.curves["attention"][1] > 0.999 * first
    for other in ("random", "centre"):
        assert results.deletion.differences[other].sign == -1
    assert results.verdict.startswith("evidence: deleting what it points at hurts more than in a random order")


def test_pointing_elsewhere_is_contrary_and_a_constant_map_decoration():
    images, classes, _ = squares(20)
    contrary = deletion_insertion(pointer(-3.0), batched(images, classes, 20))["stem"]
    assert contrary.deletion.differences["random"].sign == 1 and contrary.verdict.startswith("contrary")
    flat = deletion_insertion(pointer(0.0), batched(images, classes, 20))["stem"]
    assert flat.deletion.differences["random"].interval == (0, 0)  # both orders are the same random one
    assert flat.verdict.startswith("no difference shown")


def test_the_order_of_the_pixels():
    values = torch.tensor([[5, 1, 5, 9]])
    assert ordered(values, torch.tensor([[0, 1, 2, 3]])).tolist() == [[1, 3, 2, 0]]
    assert ordered(values, torch.tensor([[2, 1, 3, 0]])).tolist() == [[2, 3, 1, 0]]  # ties the other way round
    values = torch.randint(50, (4, 300))
    ranks = ordered(values, torch.stack([torch.randperm(300) for _ in range(4)]))
    assert torch.equal(ranks.sort(1).values, torch.arange(300).expand(4, -1))
    assert (values.gather(1, ranks.argsort(1)).diff(dim=1) <= 0).all()


def test_levels_ignore_rounding_and_keep_the_order():
    base = torch.full((1, 3, 3), 0.1)
    assert not levels(base * (1 + 1e-7 * torch.randn(1, 3, 3)), (10, 10)).any()
    values = torch.rand(2, 5, 7)
    assert torch.equal(levels(values, (5, 7)).flatten(1).argmax(1), values.flatten(1).argmax(1))
    assert levels(values, (5, 7)).amin((1, 2)).tolist() == [0, 0]


def test_the_blur_is_a_gaussian():
    assert torch.allclose(blurred(torch.full((1, 3, 9, 12), 2.0)), torch.tensor(2.0))
    point = torch.zeros(1, 1, 61, 61)
    point[0, 0, 30, 30] = 1
    spread = blurred(point)[0, 0]
    assert spread.sum().item() == pytest.approx(1)
    variance = (spread.sum(0) * (torch.arange(61) - 30.0) ** 2).sum().item()
    assert variance == pytest.approx((BLUR * 61) ** 2, rel=0.05)
    assert blurred(torch.rand(1, 3, 1, 1)).shape == (1, 3, 1, 1)


def test_results_do_not_depend_on_the_batches():
    images, classes, _ = squares(12)
    parts, whole = (plain(deletion_insertion(pointer(), batched(images, classes, n), steps=4)) for n in (5, 12))
    assert parts["stem"]["deletion"]["others"]["random"]["mean"] == pytest.approx(
        whole["stem"]["deletion"]["others"]["random"]["mean"], rel=1e-5
    )


def test_one_image_maps_of_one_place_and_steps():
    images, classes, _ = squares(1)
    results = deletion_insertion(pointer(stride=SIDE), batched(images, classes, 1), steps=1)["stem"]
    assert results.verdict == "no verdict: fewer than 10 images" and results.fractions == (0, 1)
    json.dumps(plain(results), allow_nan=False)
    with pytest.raises(ValueError, match="at least 1 step"):
        deletion_insertion(pointer(), batched(images, classes, 1), steps=0)
    with pytest.raises(ValueError, match="no images"):
        deletion_insertion(pointer(), [])


def test_nothing_is_left_behind_also_after_an_exception():
    model = restless(bam.attach(build("cifar/resnet8", 3), image=32)).train()
    images, classes = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2])
    before = traces(model)
    deletion_insertion(model, [(images, classes)], steps=2)
    assert_unchanged(before, model)
    model.fc.register_forward_hook(lambda module, inputs, output: output / (inputs[0].abs().sum(1, True) > 1e9))
    before = traces(model)
    with pytest.raises(ValueError, match="the network's output"):
        deletion_insertion(model, [(images, classes)], steps=2)
    assert_unchanged(before, model)
