import dataclasses
import multiprocessing
import os

import numpy as np
import pytest
import torch
from PIL import Image

from bam.data.boxes import BoxDataset, BoxOptions, Objects
from bam.data.boxes.decoding import BoxDecoder
from tests.data.boxed import changed, same_boxes
from tests.data.pictures import paint


@pytest.fixture
def pictures(tmp_path):
    """Eleven pictures of different sizes with 0 to 3 boxes, one of them ignored."""
    random = np.random.default_rng(0)
    paths, objects, sizes = [], [], []
    for k in range(11):
        height, width = 40 + 2 * k, 70 - 3 * k
        paths.append(str(paint(tmp_path / f"{k}.png", k, size=(width, height))))
        corners = random.integers(0, 20, (k % 4, 2))
        boxes = torch.from_numpy(np.concatenate([corners, corners + random.integers(5, 19, (k % 4, 2))], 1))
        ignored = torch.zeros(len(boxes), dtype=torch.bool)
        ignored[2:] = True
        objects.append(Objects.of(boxes, torch.from_numpy(random.integers(1, 4, k % 4)), ignored))
        sizes.append((height, width))
    options = BoxOptions(workers=0)
    return BoxDataset(paths, objects, ("a", "b", "c"), options, sizes, list(range(100, 111)), [1, 2, 3], "coco")


def test_test_images_come_in_order_as_they_are(pictures):
    served = list(pictures.batches(4).test())
    assert [len(images) for images, _ in served] == [4, 4, 3]
    numbers = [one["number"] for _, targets in served for one in targets]
    assert numbers == list(range(11)) and pictures.image_size == (60, 70)
    for number, (image, target) in enumerate(
        (image, target) for batch in served for image, target in zip(*batch, strict=True)
    ):
        pixels = torch.from_numpy(np.array(Image.open(pictures.images[number]).copy())).permute(2, 0, 1)
        assert image.dtype == torch.float32 and torch.equal(image, pixels / 255)
        kept = ~pictures.objects[number].ignored
        assert torch.equal(target["boxes"], pictures.objects[number].boxes[kept])
        assert torch.equal(target["labels"], pictures.objects[number].labels[kept])
        assert target["boxes"].dtype == torch.float32 and target["labels"].dtype == torch.int64


def test_ignored_objects_are_not_trained_on(pictures):
    seen = [one for _, targets in pictures.batches(1).train(0, 0) for one in targets]
    assert sorted(one["number"] for one in seen) == list(range(11))
    assert all(len(one["boxes"]) == len(one["labels"]) == min(one["number"] % 4, 2) for one in seen)


@pytest.mark.parametrize("augmentation", ["flip", "ssd"])
def test_an_epoch_depends_on_seed_and_epoch_alone_whoever_decodes(pictures, augmentation):
    data = changed(pictures, augmentation=augmentation)
    batches = data.batches(3)
    whole = list(batches.train(1, 4))
    assert len(whole) == batches.steps == 3
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for workers in (0, 2):
        again = changed(data, workers=workers).batches(3)
        assert same_boxes(again.train(1, 4), whole) and same_boxes(again.train(1, 4, start=2), whole[2:])
        assert same_boxes(again.test(), data.batches(3).test())
    assert torch.equal(torch.get_rng_state(), before) and not multiprocessing.active_children()
    single = list(data.batches(1).train(1, 4))  # nor on the batch that an image is in
    for (images, _), image in zip(single, [image for batch, _ in whole for image in batch], strict=False):
        assert torch.equal(images[0], image)
    assert not same_boxes(batches.train(2, 4), whole) and not same_boxes(batches.train(1, 5), whole)
    assert same_boxes(
        data.batches(3, augment=False).train(1, 4), changed(data, augmentation="none").batches(3).train(1, 4)
    )


def test_processes_end_with_the_epoch(pictures):
    epoch = changed(pictures, workers=2).batches(2).train(0, 0)
    next(epoch)
    assert len(multiprocessing.active_children()) == 2
    epoch.close()
    assert not multiprocessing.active_children()


def test_shards_share_every_batch(pictures):
    whole = pictures.batches(4).train(0, 0)
    halves = [pictures.batches(4, shard=(rank, 2)) for rank in (0, 1)]
    for (_, targets), *parts in zip(whole, *(half.train(0, 0) for half in halves), strict=True):
        for rank, (_, own) in enumerate(parts):
            assert [one["number"] for one in own] == [one["number"] for one in targets[rank::2]]
    tested = [[one["number"] for _, targets in half.test() for one in targets] for half in halves]
    assert tested == [list(range(0, 11, 2)), list(range(1, 11, 2))]
    assert list(pictures.subset(torch.arange(1)).batches(4, shard=(1, 2)).test()) == []


@pytest.mark.parametrize("how", ["empty", "truncated", "gone", "size"])
def test_an_image_that_cannot_be_used_stops_or_is_left_out(pictures, how):
    path = pictures.images[3]
    whole = [image for images, _ in pictures.batches(4).test() for image in images]
    with open(path, "rb") as file:
        content = file.read()
    if how == "gone":
        os.unlink(path)
    elif how == "size":
        Image.new("RGB", (50, 60)).save(path)
    else:
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2] if how == "truncated" else b"")
    wrong = "has 50 x 60 pixels, but its annotation says 61 x 46" if how == "size" else "cannot be read as an image: "
    for workers in (0, 1):
        with pytest.raises(ValueError, match=f"^{path} {wrong}.*leave such images out: --data-options"):
            list(changed(pictures, workers=workers).batches(4).test())
        batches = changed(pictures, workers=workers, unreadable="skip").batches(4)
        served = list(batches.test())
        assert [one["number"] for _, targets in served for one in targets] == [k for k in range(11) if k != 3]
        kept = [image for images, _ in served for image in images]
        assert all(map(torch.equal, kept, whole[:3] + whole[4:]))
        left_out = batches.take_unreadable()
        assert (left_out.count, left_out.example) == (1, path) and batches.take_unreadable().count == 0
        seen = [[one["number"] for one in targets] for _, targets in batches.train(0, 0)]
        assert all(seen) and 3 not in sum(seen, [])


def test_no_training_batch_is_empty(pictures):
    for path in pictures.images[1:]:
        with open(path, "wb"):
            pass
    batches = changed(pictures, unreadable="skip").batches(1)
    assert [targets[0]["number"] for _, targets in batches.train(0, 0)] == [0] * 11
    assert batches.take_unreadable().count == 10
    with open(pictures.images[0], "wb"):
        pass
    for nothing in (batches.train(0, 0), batches.test()):
        with pytest.raises(ValueError, match=f"none of the 11 images can be read, e.g. {pictures.images[0]}"):
            next(nothing)


def test_requests_and_answers_take_few_tensors(pictures):
    """Between processes, each tensor takes a file descriptor, of which there are often 1,024."""
    batches = pictures.batches(11)
    request = batches._request(list(range(11)), (0, 0))
    assert not any(isinstance(value, torch.Tensor) for values in request[:5] for value in values)
    decoded = BoxDecoder("ssd", None)[request]
    assert sum(isinstance(value, torch.Tensor) for value in decoded) == 4
    assert not any(isinstance(value, torch.Tensor) for values in (decoded.sizes, decoded.counts) for value in values)


def test_fingerprint_and_subset(pictures, tmp_path):
    chosen = torch.tensor([9, 2])
    part = pictures.subset(chosen)
    assert part.images == [pictures.images[9], pictures.images[2]] and part.image_ids == [109, 102]
    assert part.sizes == [pictures.sizes[9], pictures.sizes[2]] and part.objects[1] is pictures.objects[2]
    one = pictures.objects[5]
    others = [
        part,
        pictures.subset(torch.arange(10, -1, -1)),
        dataclasses.replace(pictures, classes=("a", "b", "d")),
        dataclasses.replace(pictures, images=[*pictures.images[:-1], str(tmp_path / "other.png")]),
        *(
            dataclasses.replace(pictures, objects=[*pictures.objects[:5], changed_one, *pictures.objects[6:]])
            for changed_one in (
                dataclasses.replace(one, boxes=one.boxes + 1),
                dataclasses.replace(one, labels=one.labels + 1),
                dataclasses.replace(one, ignored=~one.ignored),
                dataclasses.replace(one, areas=one.areas + 1),
            )
        ),
        dataclasses.replace(pictures, objects=[*pictures.objects[1::-1], *pictures.objects[2:]]),  # 1 and 0 of them
    ]
    prints = [data.fingerprint for data in (pictures, *others)]
    assert len(set(prints)) == len(prints)
    moved = dataclasses.replace(pictures, images=[path.replace(str(tmp_path), "/x") for path in pictures.images])
    assert moved.fingerprint == changed(pictures, workers=3).fingerprint == pictures.fingerprint
