import copy
import json
import re

import pytest
import torch

import bam.data.boxes.coco_file as coco_file
from bam.data import load_boxes
from tests.conftest import SHARED_DATA
from tests.data.boxed import instances, write_coco


def tree(root, content=None, **options):
    """`content` to train on, the usual to test on."""
    write_coco(root / "coco", train2017=content or instances(), val2017=instances())
    return load_boxes("coco", root, **options)


def test_images_come_by_id_with_their_objects(tmp_path):
    train, test = tree(tmp_path)
    assert (train.image_ids, train.file_names) == ([10, 20, 30], ["001.jpg", "002.jpg", "003.jpg"])
    assert (train.classes, train.category_ids, train.protocol) == (("cat", "dog"), [3, 7], "coco")
    first, second, third = train.objects
    assert torch.allclose(first.boxes, torch.tensor([[30.0, 5, 50, 13]])) and first.boxes.max() == 50  # cut off
    assert second.boxes.tolist() == [[1.5, 2, 11.5, 22], [0, 0, 50, 40]] and second.areas.tolist() == [150.5, 900]
    assert second.labels.tolist() == [2, 1] and second.ignored.tolist() == [False, True]
    assert len(third) == 0 and third.boxes.shape == (0, 4) and third.labels.dtype == torch.int64
    assert train.sizes == [(40, 50)] * 3 and train.images[0] == str(tmp_path / "coco/train2017/001.jpg")
    assert test.images[0] == str(tmp_path / "coco/val2017/001.jpg") and test.fingerprint == train.fingerprint
    assert [len(one["labels"]) for _, targets in train.batches(2).test() for one in targets] == [1, 1, 0]


def test_places_splits_and_first_images(tmp_path):
    whole, _ = tree(tmp_path)
    train, test = load_boxes("coco", tmp_path / "coco", train="val2017", num_train=2, num_test=1)
    assert train.image_ids == [10, 20] and test.image_ids == [10] and "val2017" in train.images[0]
    assert train.fingerprint == whole.subset(torch.arange(2)).fingerprint
    (tmp_path / "coco").rename(tmp_path / "other")
    wanted = f"there is no folder {tmp_path}/coco/annotations or {tmp_path}/annotations; unpack.*BAM_DATA"
    with pytest.raises(FileNotFoundError, match=wanted):
        load_boxes("coco", tmp_path)


def test_area_and_iscrowd_may_be_absent(tmp_path):
    content = instances()
    for entry in content["annotations"]:
        del entry["area"], entry["iscrowd"]
    train, _ = tree(tmp_path, content)
    assert train.objects[1].areas.tolist() == [200, 2000] and not train.objects[1].ignored.any()


def test_whole_numbers_may_be_text_or_floats(tmp_path):
    content = instances()
    for entry in content["images"]:
        entry |= {"id": str(entry["id"]), "width": float(entry["width"])}
    for entry in content["annotations"]:
        entry["image_id"] = str(entry["image_id"])
    path = write_coco(tmp_path / "coco", val2017=instances(), train2017=instances())
    path.write_text(json.dumps(content))
    train, test = load_boxes("coco", tmp_path)
    assert train.image_ids == [10, 20, 30] and train.fingerprint == test.fingerprint
    assert train.sizes == test.sizes


def test_file_names_may_have_folders(tmp_path):
    content = instances()
    content["images"][0]["file_name"] = "more/a.jpg"
    train, _ = tree(tmp_path, content)
    assert train.images[2] == str(tmp_path / "coco/train2017/more/a.jpg") and train.file_names[1:] == [
        "002.jpg",
        "more/a.jpg",
    ]


def test_missing_files_are_named(tmp_path):
    folder = tmp_path / "coco"
    write_coco(folder, val2017=instances())
    wanted = (
        f"^{folder}/annotations/instances_train2017.json, the annotations to train on, is missing; splits present: "
    )
    wanted += """val2017. Choose one of these: --data-options '{"train": "val2017"}'"""
    with pytest.raises(FileNotFoundError, match=wanted):
        load_boxes("coco", tmp_path)
    (folder / "val2017/002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=f"^{folder}/val2017/002.jpg is missing, but .*val2017.json lists it"):
        load_boxes("coco", tmp_path, train="val2017")
    (folder / "val2017").rename(folder / "images")
    with pytest.raises(
        FileNotFoundError, match=f"there is no folder {folder}/val2017 with the images of .*unpack val2017"
    ):
        load_boxes("coco", tmp_path, train="val2017")
    (folder / "annotations/instances_val2017.json").unlink()
    with pytest.raises(FileNotFoundError, match="unpack COCO.s annotations there"):
        load_boxes("coco", tmp_path)


def without(*path):
    """The usual content without the entry at `path`."""
    content = instances()
    *most, last = path
    place = content
    for key in most:
        place = place[key]
    del place[last]
    return content


def having(value, *path):
    content = instances()
    *most, last = path
    place = content
    for key in most:
        place = place[key]
    place[last] = value
    return content


LAST = "annotations", 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("images"), "holds no instances in COCO's format: it has no list 'images'"),
        (without("annotations"), "it has no list 'annotations'"),
        (without("categories"), "it has no list 'categories'"),
        (having({}, "images"), "it has no list 'images'"),
        (having([], "images"), "lists no images; choose another split"),
        (having([], "categories"), "lists no categories"),
        (having([1], "images"), r"image 1 of the list has no 'id' \(a whole number\); correct it"),
        (without("images", 1, "file_name"), r"image 2 of the list has no 'file_name' \(a string\)"),
        (without("images", 0, "height"), "image 1 of the list has no 'height'"),
        (
            having(2.5, "images", 0, "width"),
            "image 1 of the list: its 'width' must be a whole number, but is 2.5",
        ),
        (having("a7", "images", 0, "id"), "image 1 of the list: its 'id' must be a whole number, but is 'a7'"),
        (having(True, "images", 0, "id"), "its 'id' must be a whole number, but is True"),
        (having("7" * 400, "images", 0, "id"), "its 'id' must be a whole number, but is '777"),
        (having(0, "images", 0, "width"), r"image 1 of the list \(003.jpg\) has 0 x 40 pixels"),
        (having(10, "images", 0, "id"), r"image 3 of the list \(001.jpg\) has the id 10 of another image"),
        (without("categories", 0, "name"), "category 1 of the list has no 'name'"),
        (having(7, "categories", 1, "id"), "category 2 of the list has the id 7 or the name 'cat' of another"),
        (having("dog", "categories", 1, "name"), "has the id 3 or the name 'dog' of another"),
        (without(*LAST, "image_id"), "annotation 3 of the list has no 'image_id'"),
        (having(99, *LAST, "image_id"), "annotation 3 of the list refers to an image that is not listed, image_id 99"),
        (
            having(99, *LAST, "category_id"),
            "annotation 3 of the list refers to a category .*category_id 99",
        ),
        (without(*LAST, "bbox"), r"annotation 3 of the list has no 'bbox' \(a list\)"),
        (having([1, 2, 3], *LAST, "bbox"), r"annotation 3 of the list: its bbox must be four numbers.* is \[1, 2, 3\]"),
        (having([1, 2, 3, "4"], *LAST, "bbox"), "its bbox must be four numbers"),
        (having([1, 2, 3, float("nan")], *LAST, "bbox"), "its bbox must be four numbers"),
        (having("large", *LAST, "area"), "annotation 3 of the list: its area is not a number: 'large'"),
        (having(10**400, *LAST, "area"), "annotation 3 of the list: its area is not a number: 1000"),
        (having([1, 2, 10**400, 3], *LAST, "bbox"), "its bbox must be four numbers"),
        (having(10**400, "images", 0, "width"), r"its 'width' must be a whole number below 2\*\*63, but is 1000"),
        (
            having([4, 5, 0, 6], *LAST, "bbox"),
            r"annotation 3 \(cat\) of image 20 \(002.jpg\) has a box without area in its image of 50 x 40 pixels: "
            """x1, y1, x2, y2 = 4, 5, 4, 11. .*--data-options '{"invalid": "drop"}'""",
        ),
        (having([50, 5, 7, 6], *LAST, "bbox"), "has a box without area in its image"),
        (having([9, 5, -7, 6], *LAST, "bbox"), "has a box without area in its image"),
    ],
)
def test_what_is_wrong_with_a_file_is_reported_with_its_path(tmp_path, content, message):
    path = write_coco(tmp_path, val2017=instances())
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}:? .*{message}"):
        load_boxes("coco", tmp_path, train="val2017")


@pytest.mark.parametrize("content", [b'{"images": [', b"", b"\xff\xff", b"[" * 100_000])
def test_broken_json_is_named(tmp_path, content):
    path = write_coco(tmp_path, val2017=instances())
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path} is not valid JSON .*replace it with a fresh copy"):
        load_boxes("coco", tmp_path, train="val2017")


def test_boxes_without_area_can_be_dropped(tmp_path):
    content = having([50, 5, 7, 6], "annotations", 0, "bbox")
    train, _ = tree(tmp_path, content, invalid="drop")
    assert train.objects[1].boxes.tolist() == [[0, 0, 50, 40]] and train.objects[1].areas.tolist() == [900]
    assert [len(one) for one in train.objects] == [1, 1, 0]


def test_classes_in_another_order(tmp_path):
    train, _ = tree(tmp_path, classes=["dog", "cat"])
    assert (train.classes, train.category_ids) == (("dog", "cat"), [7, 3])
    assert train.objects[1].labels.tolist() == [1, 2]
    with pytest.raises(ValueError, match="differ from those in the option classes, e.g. 'cow', 'dog'; list"):
        load_boxes("coco", tmp_path, classes=["cow", "cat"])


def test_parts_of_different_categories_are_refused(tmp_path):
    with pytest.raises(ValueError, match="train2017 and val2017 have different categories"):
        tree(tmp_path, having("cow", "categories", 0, "name"))


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    tree(tmp_path)
    read = []
    load = coco_file.json.load
    monkeypatch.setattr(coco_file.json, "load", lambda file, **rest: read.append(file.name) or load(file, **rest))
    for options in ({}, {"augmentation": "ssd"}, {"num_train": 1}):
        load_boxes("coco", tmp_path, **options)
    assert not read
    content = copy.deepcopy(instances())
    content["annotations"].pop()
    write_coco(tmp_path / "coco", train2017=content)
    train, _ = load_boxes("coco", tmp_path)
    assert len(train.objects[1]) == 1 and read == [str(tmp_path / "coco/annotations/instances_train2017.json")]


def test_real_images():
    if not (SHARED_DATA / "coco").is_dir():
        # The images may not be copied into the project, and tests download nothing.
        pytest.skip(f"the 154 images of COCO are not here: {SHARED_DATA / 'coco'}")
    train, test = load_boxes("coco", SHARED_DATA, train="val2017")
    assert train.fingerprint == test.fingerprint and len(test) == 154
    assert sum(map(len, test.objects)) == 1398 and sum(int(one.ignored.sum()) for one in test.objects) == 15
    assert len(test.classes) == 80 and (test.classes[0], test.classes[79]) == ("person", "toothbrush")
    assert (test.category_ids[0], test.category_ids[79]) == (1, 90) and test.image_ids == sorted(test.image_ids)
    assert torch.cat([one.labels for one in test.objects]).unique().tolist() == list(range(1, 81))
    assert all(f"{number:012}.jpg" == name for number, name in zip(test.image_ids, test.file_names, strict=True))
    content = json.loads((SHARED_DATA / "coco/annotations/instances_val2017.json").read_text())
    by_image = dict(zip(test.image_ids, test.objects, strict=True))
    for number in test.image_ids:
        entries = [entry for entry in content["annotations"] if entry["image_id"] == number]
        boxes = torch.tensor([entry["bbox"] for entry in entries]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found = by_image[number]
        torch.testing.assert_close(found.boxes, boxes, atol=0.011, rtol=0)  # what exceeds the image is cut off
        assert [test.category_ids[label - 1] for label in found.labels] == [entry["category_id"] for entry in entries]
        assert torch.equal(found.areas, torch.tensor([float(entry["area"]) for entry in entries]))
        assert found.ignored.tolist() == [entry["iscrowd"] == 1 for entry in entries]
    served = list(test.batches(32).test())
    assert [one["number"] for _, targets in served for one in targets] == list(range(154))
    assert [tuple(image.shape[1:]) for images, _ in served for image in images] == test.sizes
