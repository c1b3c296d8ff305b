"""What augmentation does to pixels, it does to boxes."""

import dataclasses

import pytest
import torch

from bam.data.boxes import Objects
from tests.data.boxed import changed, drawn


def bright(image):
    """The xyxy of what stands out from the background, and from the colour around an image that is zoomed out."""
    rows, columns = ((image.amin(0) > 0.75).nonzero()).unbind(1)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


def test_boxes_still_bound_their_rectangles_when_mirrored(tmp_path):
    data = drawn(tmp_path, [[(5, 7, 20, 30)]] * 40)
    mirrored = 0
    for (image,), (target,) in data.batches(1).train(0, 0):
        assert image.shape == (3, 48, 60) and target["labels"].tolist() == [1]
        assert torch.equal(bright(image), target["boxes"][0])
        mirrored += target["boxes"][0].tolist() == [40, 7, 55, 30]
    assert 10 < mirrored < 30
    for (image,), (target,) in changed(data, augmentation="none").batches(1).train(0, 0):
        assert target["boxes"].tolist() == [[5, 7, 20, 30]] and torch.equal(bright(image), target["boxes"][0])


def test_boxes_still_bound_their_rectangles_when_zoomed_out_and_cropped(tmp_path):
    """Over a box stands its rectangle, up to what a crop cuts off; a rectangle without a box has its centre outside."""
    data = drawn(tmp_path, [[(5, 7, 20, 30)]] * 150, augmentation="ssd")
    without_colours = data.batches(1)
    without_colours.decoder.augment.transforms.pop(0)
    sizes, bounded, cut, coloured = [], 0, 0, 0
    for epoch in range(2):
        for (image,), (target,) in without_colours.train(0, epoch):
            height, width = image.shape[1:]
            sizes.append(height * width / (60 * 48))
            assert len(target["boxes"]) == 1 and target["labels"].tolist() == [1]
            assert torch.equal(bright(image), target["boxes"][0])
            bounded += 1
            cut += bool((target["boxes"][0, 2:] - target["boxes"][0, :2] != torch.tensor([15.0, 23])).any())
            grounds = image[:, 0, 0] * 255
            coloured += torch.equal(grounds.round(), torch.tensor([124.0, 116, 104]))
    assert bounded == 300 and 30 < cut < 200 and 30 < coloured < 200
    assert min(sizes) < 0.5 and 8 < max(sizes) <= 16


def test_crops_drop_boxes_whose_centre_is_outside(tmp_path):
    boxes = [(2, 2, 12, 12), (44, 33, 58, 46)]
    data = drawn(tmp_path, [boxes] * 120, augmentation="ssd")
    batches = data.batches(1)
    del batches.decoder.augment.transforms[:2]  # no colours, no zoom
    counts = []
    for (image,), (target,) in batches.train(0, 0):
        counts.append(len(target["boxes"]))
        assert len(target["labels"]) == counts[-1]
        seen = image.amin(0) > 0.75
        for x1, y1, x2, y2 in target["boxes"].int().tolist():
            assert seen[y1:y2, x1:x2].all()
            assert (x1 == 0 or not seen[y1:y2, x1 - 1].any()) and (y1 == 0 or not seen[y1 - 1, x1:x2].any())
            assert not seen[y1:y2, x2 : x2 + 1].any() and not seen[y2 : y2 + 1, x1:x2].any()
    assert {1, 2} <= set(counts) <= {1, 2} and counts.count(1) > 20


def test_colours_change_and_nothing_moves(tmp_path):
    data = drawn(tmp_path, [[(5, 7, 20, 30)]] * 30, augmentation="ssd")
    batches = data.batches(1)
    del batches.decoder.augment.transforms[1:]
    looks = {tuple(image[:, 0, 0].tolist()) for (image,), _ in batches.train(0, 0)}
    assert len(looks) > 10


@pytest.mark.parametrize("augmentation", ["none", "flip", "ssd"])
@pytest.mark.parametrize("size", [(60, 48), (9, 3), (2, 2)])
def test_images_without_boxes_and_tiny_ones_survive(tmp_path, augmentation, size):
    data = drawn(tmp_path, [[], [(0, 0, 2, 2)]] * 15, size, augmentation=augmentation)
    served = list(data.batches(2).train(0, 0))
    assert len(served) == 15
    for images, targets in served:
        for image, target in zip(images, targets, strict=True):
            assert image.shape[0] == 3 and min(image.shape) > 0 and 0 <= image.min() <= image.max() <= 1
            assert target["boxes"].shape == (len(target["labels"]), 4) and type(target["boxes"]) is torch.Tensor
            assert len(target["labels"]) == target["number"] % 2 or augmentation == "ssd"


def test_a_box_that_rounding_closes_is_left_out(tmp_path):
    data = drawn(tmp_path, [[(1, 1, 9, 9)]])
    thin = Objects.of(torch.tensor([[0, 1, 1e-9, 9], [1, 1, 9, 9]]), torch.tensor([1, 1]))
    data = dataclasses.replace(data, objects=[thin])
    counts = {len(target["boxes"]) for epoch in range(10) for _, (target,) in data.batches(1).train(0, epoch)}
    assert counts == {1, 2}  # mirrored, and not
