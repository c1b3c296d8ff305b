import subprocess
import sys

import pytest
import torch

from bam.data import BOXES, load, load_boxes
from bam.data.boxes import BoxOptions
from bam.data.digits import digits
from tests.data.boxed import instances, same_boxes, write_coco


def test_digits_have_one_object_each():
    train, test = load_boxes("digits", num_train=30, num_test=20, canvas=24, seed=3)
    plain, _ = digits(num_train=30, num_test=20, canvas=24, seed=3)
    assert (len(train), len(test), train.protocol, train.image_size) == (30, 20, "coco", (24, 24))
    assert train.classes == tuple("0123456789") and train.category_ids == list(range(1, 11))
    assert [one.labels.tolist() for one in train.objects] == [[label + 1] for label in plain.targets.tolist()]
    assert torch.equal(torch.cat([one.boxes for one in train.objects]), plain.boxes.float())
    served = list(test.batches(8).test())
    images = torch.stack([image for batch, _ in served for image in batch])
    assert torch.equal(images, test.images.permute(0, 3, 1, 2) / 255)
    assert test.batches(8, "cpu").num_workers == 0
    part = train.subset(torch.tensor([4, 1]))
    assert torch.equal(part.images, train.images[[4, 1]]) and part.file_names == ["5", "2"]
    options = {"num_train": 30, "num_test": 20, "augmentation": "ssd"}
    several = [load_boxes("digits", **options, workers=workers)[0] for workers in (0, 1)]
    assert same_boxes(*(data.batches(10).train(0, 1) for data in several))


def test_digits_know_their_options():
    with pytest.raises(
        ValueError, match="digits: there is no option train; the options are canvas, seed, augmentation, num_"
    ):
        load_boxes("digits", train="x")
    for options in ({"num_test": 0}, {"num_train": "all"}):
        with pytest.raises(ValueError, match="must be a number of images, at least 1"):
            load_boxes("digits", **options)


@pytest.mark.parametrize("name", ["voc2007", "voc0712", "coco"])
def test_options_by_name(name, tmp_path):
    with pytest.raises(
        ValueError,
        match=f"{name}: there is no option sise; the options are augmentation, train, .*unreadable. To replace",
    ):
        load_boxes(name, tmp_path, sise=3)


@pytest.mark.parametrize(
    ("option", "values", "meaning"),
    [
        ("augmentation", ["all", None, []], '"none", "flip" or "ssd"'),
        ("train", ["", 7], "the name of a split"),
        ("test", [["val"]], "the name of a split"),
        ("num_train", [0, 1.5, True], "a number of images, at least 1"),
        ("num_test", [-1], "a number of images, at least 1"),
        ("workers", [-1, "2"], "a number of processes"),
        ("unreadable", ["ignore", 1], '"stop" or "skip"'),
        ("invalid", ["skip", {}], '"stop" or "drop"'),
        ("classes", ["dog", [], ["a", "a"], ["a", 1], [""]], "a list of distinct names"),
    ],
)
def test_values_that_cannot_be_meant(option, values, meaning):
    for value in values:
        with pytest.raises(ValueError, match=f"^boxes: {option} must be {meaning}.*; got "):
            BoxOptions.read({option: value})


def test_names_of_data_sets(tmp_path):
    for name in ("voc2007", "voc0712", "coco"):
        with pytest.raises(ValueError, match=f"the data set '{name}' has boxes .*: add --task detection"):
            load(name, tmp_path)
    for name in ("cifar100", "folder:x"):
        with pytest.raises(
            ValueError, match=f"'{name}' has no boxes: .*without --task detection; data sets with boxes: digits, voc"
        ):
            load_boxes(name, tmp_path)
    with pytest.raises(ValueError, match=f"unknown data set 'mnist'; known data sets with boxes: {', '.join(BOXES)}"):
        load_boxes("mnist", tmp_path)


def test_the_root_may_come_from_the_environment(tmp_path, monkeypatch):
    write_coco(tmp_path / "coco", val2017=instances())
    monkeypatch.setenv("BAM_DATA", str(tmp_path))
    assert len(load_boxes("coco", train="val2017")[0]) == 3


def test_looking_at_data_needs_no_torchvision(tmp_path):
    write_coco(tmp_path, val2017=instances())
    source = (
        "import sys; from bam.data import load_boxes\n"
        f"load_boxes('coco', {str(tmp_path)!r}, train='val2017'); load_boxes('digits', num_train=2, num_test=2)\n"
        "assert not any(name.startswith('torchvision') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", source], check=True)
