import re

import pytest
import torch
from PIL import ExifTags, Image

import bam.data.boxes.voc_file as voc_file
from bam.data import load_boxes
from bam.data.boxes.voc import CLASSES
from tests.conftest import SHARED_DATA
from tests.data.boxed import voc_object, voc_xml, write_voc

DOG, CAT, PERSON = CLASSES.index("dog") + 1, CLASSES.index("cat") + 1, CLASSES.index("person") + 1


def plant(root, first=None):
    """Two images to train on, one to test on; the first annotation is given."""
    dog = voc_xml(voc_object("dog", (1, 1, 50, 40)))
    write_voc(
        root / "VOCdevkit" / "VOC2007",
        {"000001": dog if first is None else first, "000002": dog, "000003": dog},
        trainval=["000001", "000002"],
        test=["000003"],
    )


def tree(root, first=None, **options):
    plant(root, first)
    return load_boxes("voc2007", root, **options)


def test_boxes_count_from_zero_and_end_behind_their_last_pixel(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    objects = [
        voc_object("person", (11, 6, 30, 25), more=2 * part),
        voc_object(" cat ", ("5.5", "1", "50.4", "41"), difficult=1),
        voc_object("dog", (8, 9, 8, 9), more=part),
        voc_object("dog", (0, -3, 50, 40)),
    ]
    train, test = tree(tmp_path, voc_xml(*objects))
    found = train.objects[0]
    assert found.boxes.tolist() == [[10, 5, 30, 25], [4.5, 0, 50, 40], [7, 8, 8, 9], [0, 0, 50, 40]]
    assert found.labels.tolist() == [PERSON, CAT, DOG, DOG] and found.ignored.tolist() == [False, True, False, False]
    assert found.areas.tolist() == [400, 45.5 * 40, 1, 2000]
    assert (train.classes, train.protocol, train.image_size, train.sizes) == (CLASSES, "voc", (40, 50), [(40, 50)] * 2)
    assert (train.file_names, train.image_ids, len(train), len(test)) == (["000001.jpg", "000002.jpg"], [1, 2], 2, 1)
    assert test.category_ids == list(range(1, 21)) and test.objects[0].boxes.tolist() == [[0, 0, 50, 40]]
    targets = [one for _, batch in train.batches(1).test() for one in batch]
    assert targets[0]["labels"].tolist() == [PERSON, DOG, DOG]  # not what is difficult


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_a_size_that_is_not_told_is_the_images(tmp_path, size):
    train, _ = tree(tmp_path, voc_xml(voc_object("dog", (1, 1, 99, 99)), size=size))
    assert train.sizes[0] == (40, 50) and train.objects[0].boxes.tolist() == [[0, 0, 50, 40]]
    (tmp_path / "VOCdevkit/VOC2007/JPEGImages/000001.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="000001.xml gives no size, and .*000001.jpg cannot be read as an image"):
        load_boxes("voc2007", tmp_path, invalid="drop")


def test_places_where_the_data_may_lie(tmp_path):
    train, _ = tree(tmp_path)
    for root in (tmp_path / "VOCdevkit", tmp_path):
        assert load_boxes("voc2007", root)[0].images == train.images
    (tmp_path / "VOCdevkit").rename(tmp_path / "other")
    moved, _ = load_boxes("voc2007", tmp_path / "other")
    assert moved.fingerprint == train.fingerprint and moved.images != train.images
    wanted = f"there is no folder {tmp_path}/VOCdevkit/VOC2007 or {tmp_path}/VOC2007; unpack.*BAM_DATA"
    with pytest.raises(FileNotFoundError, match=wanted):
        load_boxes("voc2007", tmp_path)


def test_splits_and_first_images(tmp_path):
    tree(tmp_path)
    train, test = load_boxes("voc2007", tmp_path, train="test", test="trainval", num_test=1)
    assert train.file_names == ["000003.jpg"] and test.file_names == ["000001.jpg"]
    assert len(load_boxes("voc2007", tmp_path, num_train=9)[0]) == 2


def test_voc0712_trains_on_both_years_and_tests_on_the_first(tmp_path):
    tree(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder .*VOC2012"):
        load_boxes("voc0712", tmp_path)
    bird = voc_xml(voc_object("bird", (2, 2, 9, 9)))
    write_voc(tmp_path / "VOCdevkit/VOC2012", {"2008_000001": bird}, trainval=["2008_000001"])
    train, test = load_boxes("voc0712", tmp_path)
    names = ("VOC2007/JPEGImages/000001.jpg", "VOC2007/JPEGImages/000002.jpg", "VOC2012/JPEGImages/2008_000001.jpg")
    assert train.file_names == list(names) and train.image_ids == [1, 2, 3]
    assert train.objects[2].labels.tolist() == [CLASSES.index("bird") + 1] and test.file_names == ["000003.jpg"]
    for count in (1, 2, 3):
        part, _ = load_boxes("voc0712", tmp_path, num_train=count)
        assert part.images == train.images[:count] and part.image_ids == train.image_ids[:count]


BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation><object>", "is not valid XML .*replace it with a fresh copy"),
        ("", "is not valid XML"),
        ("<?xml version='1.0' encoding='none'?><annotation/>", "is not valid XML"),
        ("<?xml version='1.0' encoding='utf-32'?><annotation/>", "is not valid XML"),
        ("<html></html>", "is not a VOC annotation: its root element is 'html'"),
        (voc_xml(f"<object>{BOX}</object>"), "object 1 has no name; correct it"),
        (voc_xml(f"<object><part><name>dog</name></part>{BOX}</object>"), "object 1 has no name"),
        (
            voc_xml(voc_object("dog", (1, 1, 2, 2)), "<object><name>dog</name></object>"),
            r"object 2 \(dog\) has no bndbox",
        ),
        (
            voc_xml(voc_object("unicorn", (1, 1, 2, 2))),
            """object 1 has the class 'unicorn'.*not among the 20 known.*'{"classes": \\["unicorn", ...\\]}'""",
        ),
        (voc_xml(voc_object("dog", (1, "a", 2, 2))), r"object 1 \(dog\): ymin of its bndbox is not a number: 'a'"),
        (voc_xml(voc_object("dog", (1, 1, "nan", 2))), "xmax of its bndbox is not a number: 'nan'"),
        (
            voc_xml(f"<object><name>dog</name>{BOX.replace('<ymax>9</ymax>', '')}</object>"),
            "ymax of its .*not a number: ''",
        ),
        (
            voc_xml(voc_object("dog", (1, 1, 2, 2)), voc_object("cat", (9, 3, 8, 7))),
            r"object 2 \(cat\) has a box without area in its image of 50 x 40 pixels: .* = 8, 2, 8, 7.*"
            """--data-options '{"invalid": "drop"}'""",
        ),
        (voc_xml(voc_object("dog", (-9, 1, 0, 9))), r"object 1 \(dog\) has a box without area in its image"),
        (voc_xml(voc_object("dog", (51, 1, 60, 9))), r"object 1 \(dog\) has a box without area in its image"),
    ],
)
def test_what_is_wrong_with_an_annotation_is_reported_with_its_file(tmp_path, xml, message):
    plant(tmp_path, xml)
    path = tmp_path / "VOCdevkit/VOC2007/Annotations/000001.xml"
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}:? .*{message}"):
        load_boxes("voc2007", tmp_path)


def test_objects_in_another_place_are_not_taken_for_none(tmp_path):
    nested = voc_xml("<objects>" + voc_object("dog", (1, 1, 50, 40)) + "</objects>")
    with pytest.raises(ValueError, match="000001.xml has objects, but not directly below <annotation>"):
        tree(tmp_path, nested)


def test_lists_with_a_byte_order_mark_and_other_suffixes(tmp_path):
    plant(tmp_path)
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("000001\n000002\n", encoding="utf-8-sig")
    (folder / "JPEGImages" / "000001.jpg").rename(folder / "JPEGImages" / "000001.JPG")
    Image.new("RGB", (50, 40)).save(folder / "JPEGImages" / "000002.png")
    (folder / "JPEGImages" / "000002.jpg").unlink()
    train, _ = load_boxes("voc2007", tmp_path, workers=0)
    assert train.file_names == ["000001.JPG", "000002.png"]
    assert sum(len(images) for images, _ in train.batches(1).test()) == 2


def test_images_that_exif_turns_are_reported(tmp_path):
    plant(tmp_path)
    path = tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000002.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (40, 50)).save(path, exif=exif)
    train, test = load_boxes("voc2007", tmp_path, workers=0)
    assert train.notes == (
        f"EXIF turns some images for display, e.g. {path}; if their boxes are for the turned images, "
        """add --data-options '{"exif": "turn"}'""",
    )
    assert test.notes == ()
    with pytest.raises(ValueError, match="says 50 x 40 .EXIF turns it for display; boxes must be for the"):
        list(train.batches(1).test())
    for size in ((50, 40), None):
        (tmp_path / "VOCdevkit/VOC2007/Annotations/000002.xml").write_text(
            voc_xml(voc_object("dog", (1, 1, 50, 40)), size=size)
        )
        train, _ = load_boxes("voc2007", tmp_path, workers=0, exif="turn")
        assert train.notes == () and train.sizes == [(40, 50)] * 2
        assert [images[0].shape for images, _ in train.batches(1).test()] == [(3, 40, 50)] * 2
    with pytest.raises(ValueError, match='exif must be "ignore" or "turn"'):
        load_boxes("voc2007", tmp_path, exif="other")


@pytest.mark.parametrize("name", ["../JPEGImages/000001", "/etc/000001", "a/../../000001"])
def test_lists_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    plant(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/test.txt"
    path.write_text(f"{name}\n")
    with pytest.raises(ValueError, match=f"{path} names the file '{name}.xml', which is not below"):
        load_boxes("voc2007", tmp_path)


def test_boxes_without_area_can_be_dropped(tmp_path):
    xml = voc_xml(voc_object("cat", (9, 3, 8, 7)), voc_object("dog", (1, 1, 2, 2)), voc_object("dog", (60, 1, 70, 2)))
    train, _ = tree(tmp_path, xml, invalid="drop")
    assert train.objects[0].labels.tolist() == [DOG] and train.objects[0].boxes.tolist() == [[0, 0, 2, 2]]
    assert len(train.objects[0].areas) == len(train.objects[0].ignored) == 1


def test_other_classes(tmp_path):
    train, test = tree(tmp_path, voc_xml(voc_object("unicorn", (1, 1, 2, 2))), classes=["dog", "unicorn"])
    assert train.classes == ("dog", "unicorn") and train.category_ids == [1, 2]
    assert train.objects[0].labels.tolist() == [2] and test.objects[0].labels.tolist() == [1]


def test_missing_files_are_named(tmp_path):
    plant(tmp_path)
    folder = tmp_path / "VOCdevkit/VOC2007"
    wanted = "/Main/val.txt, the list of the images to test on, is missing; lists present: test, trainval.*"
    wanted += """Choose one of these: --data-options '{"test": "test"}'"""
    with pytest.raises(FileNotFoundError, match=wanted):
        load_boxes("voc2007", tmp_path, test="val")
    for name in ("JPEGImages/000002.jpg", "Annotations/000002.xml"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(
            FileNotFoundError, match=f"^{folder}/{name} is missing, but the list of a split names 000002"
        ):
            load_boxes("voc2007", tmp_path)
        (folder / name).write_bytes(content)
    for name in ("JPEGImages", "Annotations"):
        (folder / name).rename(folder / "away")
        with pytest.raises(FileNotFoundError, match=f"there is no folder {folder}/{name}; .* is not a complete copy"):
            load_boxes("voc2007", tmp_path)
        (folder / "away").rename(folder / name)
    assert len(load_boxes("voc2007", tmp_path)[0]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n\n", "it is empty"),
        (b"000001 -1\n000002  1\n", "it has the line '000001 -1'"),
        (b"\xff\xfe\x00", "it is not text"),
    ],
)
def test_lists_that_are_none_are_named(tmp_path, content, message):
    tree(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not a list of images.*{message}"):
        load_boxes("voc2007", tmp_path)


def test_files_are_read_once_and_again_when_they_have_changed(tmp_path, monkeypatch):
    tree(tmp_path)
    parsed = []
    parse = voc_file.ElementTree.parse
    monkeypatch.setattr(voc_file.ElementTree, "parse", lambda path: parsed.append(path.name) or parse(path))
    for options in ({}, {"augmentation": "ssd"}, {"workers": 3}):
        load_boxes("voc2007", tmp_path, **options)
    assert not parsed
    load_boxes("voc2007", tmp_path, invalid="drop")
    assert parsed == ["000001.xml", "000002.xml", "000003.xml"]
    write_voc(tmp_path / "VOCdevkit/VOC2007", {}, trainval=["000002"])
    assert load_boxes("voc2007", tmp_path)[0].file_names == ["000002.jpg"] and parsed[3:] == ["000002.xml"]


def test_real_images():
    if not (SHARED_DATA / "VOCdevkit").is_dir():
        # The images may not be copied into the project, and tests download nothing.
        pytest.skip(f"the 498 images of VOC are not here: {SHARED_DATA / 'VOCdevkit'}")
    train, test = load_boxes("voc2007", SHARED_DATA, unreadable="stop", workers=0)
    assert (len(train), len(test)) == (339, 159)
    every = [*train.objects, *test.objects]
    assert sum(map(len, every)) == 1462 and all(len(one) for one in every)
    assert torch.cat([one.labels for one in every]).unique().tolist() == list(range(1, 21))
    boxes = torch.cat([one.boxes for one in every])
    assert boxes.min() == 0 and bool((boxes[:, 2:] > boxes[:, :2]).all())
    for data in (train, test):
        for (height, width), one in zip(data.sizes, data.objects, strict=True):
            assert bool((one.boxes <= torch.tensor([width, height, width, height])).all())
    served = [number for _, targets in test.batches(16).test() for number in (one["number"] for one in targets)]
    assert served == list(range(159))
    again, _ = load_boxes("voc2007", SHARED_DATA / "VOCdevkit", num_train=5)
    assert again.images == train.images[:5] and again.fingerprint == train.subset(torch.arange(5)).fingerprint
    assert train.objects[0].boxes.tolist() == [[76, 135, 360, 358]]  # 000015.xml: 77, 136, 360, 358
