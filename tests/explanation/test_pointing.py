import json

import pytest
import torch

import bam
from bam.explanation import pointing
from bam.explanation.examination import plain
from bam.explanation.pointing import TOLERANCE, _mask, _Targets
from tests.explanation.synthetic import SIDE, assert_unchanged, batched, pointer, squares, traces


@pytest.mark.parametrize("stride", [1, 4])
def test_attention_on_the_object_and_beside_it(stride):
    images, classes, boxes = squares(24)
    at = pointing(pointer(stride=stride), batched(images, classes, 7), boxes)["stem"]
    assert at.num_images == 24 and at.place_map == "spatial logits"
    assert at.hits.attention.mean == 1 and at.hits.attention.interval == (1, 1)
    assert at.hits.verdict.startswith("it points at the object")
    beside = pointing(pointer(-3.0, stride), batched(images, classes, 7), boxes)["stem"]
    assert beside.energy.attention.mean < beside.energy.others["chance"].mean == 1 / 16
    assert beside.energy.verdict.startswith("it points away from the object")
    if stride == 1:  # all other pixels are the maximum, those within the tolerance of the box among them
        assert beside.hits.attention.mean < beside.hits.others["chance"].mean


def test_a_single_maximum_elsewhere_never_hits():
    images, classes, _ = squares(12)
    boxes = torch.tensor([[7, 7, 10, 10]]).expand(12, -1)
    results = pointing(pointer(), batched(images, classes, 5), boxes)["stem"]
    assert results.hits.attention.mean == 0 and results.hits.verdict.startswith("it points away")
    assert results.hits.others["centre"].mean == 1


def test_a_constant_map_scores_chance():
    images, classes, boxes = squares(16)
    results = pointing(pointer(0.0), batched(images, classes, 16), boxes)["stem"]
    assert results.hits.differences["chance"].mean == pytest.approx(0, abs=1e-12)
    assert results.energy.differences["chance"].mean == pytest.approx(0, abs=1e-12)
    assert results.energy.attention.mean == pytest.approx(1 / 16)
    assert results.hits.verdict == "no difference from chance shown"


def test_energy_and_hits_by_hand():
    targets = _Targets(torch.tensor([[1.0, 0.0, 3.0, 2.5]]), 0, (4, 4))
    expected = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 0]]).double()
    assert torch.equal(targets.inside[0], expected)
    values = torch.arange(16.0).view(1, 4, 4)
    assert targets.score(values, values).energy.item() == pytest.approx((1 + 2 + 5 + 6 + (9 + 10) / 2) / 120)
    assert targets.score(values, values).hits.item() == 0
    two = torch.zeros(1, 4, 4)
    two[0, 0, 1] = two[0, 3, 3] = 1  # two maxima, one of them in the box
    assert targets.score(two, two).hits.item() == 0.5


def test_the_tolerance_is_that_of_the_paper():
    """15 pixels at 224, by a loop over pixels."""
    box = torch.tensor([[100.0, 60.0, 120.0, 90.0]])
    targets = _Targets(box, 0, (224, 224))
    assert TOLERANCE * 224 == 15
    hit = [[85 <= x + 0.5 < 135 and 45 <= y + 0.5 < 105 for x in range(224)] for y in range(224)]
    assert torch.equal(targets.grown[0], torch.tensor(hit).double())
    assert targets.chance().hits.item() == pytest.approx(50 * 60 / 224**2)


def test_masks_have_the_area_of_the_box():
    boxes = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) * 6
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).double()
    width, height = ((boxes[:, k + 2].clamp(max=side) - boxes[:, k]).clamp(min=0) for k, side in ((0, 9), (1, 7)))
    torch.testing.assert_close(_mask(boxes, (7, 9)).sum((1, 2)), width * height)


def test_the_gain_stands_in_for_spatial_logits():
    images, classes, boxes = squares(12)
    model = bam.attach(bam.detach(pointer()), "se", sites="stem", image=SIDE)
    results = pointing(model, batched(images, classes, 12), boxes)
    assert results["stem"].place_map == "gain" and results["stem"].energy.attention.mean > 0


def test_boxes_that_do_not_fit_are_refused():
    images, classes, boxes = squares(6)
    batches = batched(images, classes, 4)
    for wrong, message in (
        (boxes[:5], "every image needs one"),
        (torch.cat([boxes, boxes]), "12 boxes for 6 images"),
        (boxes[:, :3], "boxes must be"),
        (boxes + 100, "the box of image 0"),
        (torch.where(torch.arange(6)[:, None] == 5, float("nan"), boxes), "the box of image 5"),
    ):
        model = pointer()
        before = traces(model)
        with pytest.raises(ValueError, match=message):
            pointing(model, batches, wrong)
        assert_unchanged(before, model)


def test_one_image_has_no_verdict_and_writes_strict_json():
    images, classes, boxes = squares(1)
    results = pointing(pointer(), batched(images, classes, 1), boxes)
    assert results["stem"].hits.attention.interval is None and "fewer than" in results["stem"].hits.verdict
    json.dumps(plain(results), allow_nan=False)
