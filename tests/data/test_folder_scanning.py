import os

import pytest
import torch
from torchvision.datasets import ImageFolder

from bam.data import load
from tests.data.pictures import folder, paint, paint_classes


def test_images_and_classes_are_those_of_torchvision(tmp_path):
    names = {"zebra": 2, "Großer Bär": 1, "犬": 3, "10": 1, "9": 2, "a.b": 1}
    for part in ("train", "validation"):
        paint_classes(tmp_path / part, names)
    paint(tmp_path / "train" / "zebra" / "more" / "x.png", 1)
    paint(tmp_path / "train" / "zebra" / "folder.jpg" / "y.PNG", 2)  # a folder, whatever its name
    (tmp_path / "train" / "zebra" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "labels.csv").write_text("beside the classes")
    oracle = ImageFolder(str(tmp_path / "train"))
    paint(tmp_path / "train" / ".cache" / "z.png", 3)  # what is hidden is passed over
    paint(tmp_path / "train" / "zebra" / "._0.png", 3)
    paint(tmp_path / "train" / "zebra" / ".thumbnails" / "0.png", 3)
    train, test = folder(tmp_path)
    assert list(zip(train.paths, train.targets.tolist(), strict=True)) == oracle.samples and len(train) == 12
    assert list(train.classes) == oracle.classes == list(test.classes) and len(test) == 10
    assert train.image_size == (16, 16)


def test_a_folder_of_classes_is_split_class_by_class_and_always_alike(tmp_path):
    counts = {"bus": 10, "car": 5, "train": 2}  # a class may be called train
    paint_classes(tmp_path / "first", counts)
    for path in sorted((tmp_path / "first").rglob("*.png"), reverse=True):  # written in another order
        (tmp_path / "second" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "second" / path.parent.name / path.name).write_bytes(path.read_bytes())

    def names(part, root):
        return [os.path.relpath(path, root) for path in part.paths]

    train, test = folder(tmp_path / "first")
    assert torch.bincount(test.targets).tolist() == [2, 1, 1] and torch.bincount(train.targets).tolist() == [8, 4, 1]
    assert len(set(train.paths + test.paths)) == 17 and train.classes == test.classes == ("bus", "car", "train")
    for part, again in zip((train, test), folder(tmp_path / "second"), strict=True):
        assert names(part, tmp_path / "first") == names(again, tmp_path / "second")
    _, more = folder(tmp_path / "first", val_share=0.5)
    assert torch.bincount(more.targets).tolist() == [5, 2, 1] and set(test.paths) <= set(more.paths)
    _, most = folder(tmp_path / "first", val_share=0.99)
    assert torch.bincount(most.targets).tolist() == [9, 4, 1]
    paint(tmp_path / "first" / "bus" / "new.png", 9)
    _, later = folder(tmp_path / "first")
    assert len(set(test.paths) & set(later.paths)) >= 3


def test_parts_in_their_order_of_preference(tmp_path):
    for part in ("train", "test"):
        paint_classes(tmp_path / part, {"a": 1, "b": 1})
    assert "/test/" in folder(tmp_path)[1].paths[0]
    for part in ("validation", "val"):
        paint_classes(tmp_path / part, {"a": 1, "b": 1})
        assert f"/{part}/" in folder(tmp_path)[1].paths[0]


def empty_folder(path):
    path.mkdir(parents=True)


LAYOUTS = {
    "nothing": (lambda root: None, "holds no class folders"),
    "no classes": (
        lambda root: [empty_folder(root / part) for part in ("train", "val")],
        "train holds no class folders",
    ),
    "empty class": (lambda root: empty_folder(root / "train" / "fox"), r"train: no images \(.jpg, .*of 'fox'"),
    "only hidden": (lambda root: paint(root / "val" / "fox" / ".x.png", 0), "val: no images .*of 'fox'"),
    "missing in val": (
        lambda root: [paint(root / "train" / name / "0.png", 0) for name in ("fox", "owl")],
        "must hold the same classes, but val/ lacks 'fox', 'owl'",
    ),
    "missing in train": (lambda root: paint(root / "val" / "fox" / "0.png", 0), "but train/ lacks 'fox'"),
    "loose": (lambda root: paint(root / "train" / "0.jpg", 0), "train holds images where folders.*'0.jpg'"),
    "loose in val": (lambda root: paint(root / "val" / "0.jpg", 0), "val holds images where folders.*'0.jpg'"),
    "flat parts": (
        lambda root: [paint(root / part / "0.jpg", 0) for part in ("train", "val")],
        "train holds images where folders",
    ),
    "flat": (
        lambda root: paint(root / "0.jpg", 0),
        "holds images where folders are expected, one per class: '0.jpg'",
    ),
    "one class": (
        lambda root: paint(root / "pets" / "cat" / "0.jpg", 0),
        "single class, 'pets'; if it holds the classes",
    ),
    "whole data sets": (
        lambda root: [paint(root / part / "cat" / "0.jpg", 0) for part in ("x", "y/train", "y/val")],
        "holds whole data sets, each with its own train/: 'y'; give",
    ),
    "train alone": (
        lambda root: paint(root / "train" / "cat" / "0.jpg", 0),
        "holds train/ but none of val/, .*give folder:.*/train",
    ),
    "val alone": (lambda root: paint(root / "val" / "cat" / "0.jpg", 0), "holds val/ but no train/"),
    "single image": (lambda root: paint_classes(root, {"a": 1, "b": 3}), "a class needs two images.*only one of 'a'"),
}


COMPLETE = ("empty class", "only hidden", "missing in val", "missing in train", "loose", "loose in val")


@pytest.mark.parametrize("name", LAYOUTS)
def test_other_layouts_are_refused_by_name(tmp_path, name):
    make, told = LAYOUTS[name]
    if name in COMPLETE:
        for part in ("train", "val"):
            paint_classes(tmp_path / part, {"cat": 1, "dog": 1})
    make(tmp_path)
    with pytest.raises(ValueError, match=told):
        folder(tmp_path)


def test_the_folder_is_looked_for_as_it_is_and_below_the_root(pictures, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    elsewhere = tmp_path_factory.mktemp("root")
    assert len(load(f"folder:{pictures.name}", elsewhere)[0]) == 13
    assert len(load(f"folder:{pictures.name}/train", elsewhere)[0]) == 11  # of 13, split
    monkeypatch.chdir(elsewhere)
    assert len(load(f"folder:{pictures.name}", pictures.parent)[0]) == 13
    monkeypatch.setenv("BAM_DATA", str(pictures.parent))
    assert len(load(f"folder:{pictures.name}")[0]) == 13
    with pytest.raises(FileNotFoundError, match=f"no folder nowhere or {pictures.parent}/nowhere; give its path"):
        load("folder:nowhere")
    for name in ("folder", "folder:"):
        with pytest.raises(ValueError, match="write folder:PATH"):
            load(name)
    with pytest.raises(ValueError, match="known: digits, cifar100 and folder:PATH"):
        load("folders:x")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"canvas": 40, "sise": 3}, "no option canvas, sise; the options are size, resize, scale.*--data-options"),
        ({"size": 0}, "size must be a number of pixels; got 0"),
        ({"size": 32.0}, "size must be"),
        ({"size": True}, "size must be"),
        ({"resize": 15}, "resize must be a number of pixels, at least size, which is 16; got 15"),
        ({"scale": [0, 1]}, "scale must be"),
        ({"scale": [0.5, 0.2]}, "scale must be"),
        ({"scale": 0.5}, "scale must be.*e.g. \\[0.08, 1\\]; got 0.5"),
        ({"ratio": [2, 1]}, "ratio must be"),
        ({"workers": -1}, "workers must be a number of processes; got -1"),
        ({"unreadable": "ignore"}, 'unreadable must be "stop" or "skip"; got \'ignore\''),
        ({"val_share": 0.5}, "val_share splits a folder of classes, but .* is split into 'train', 'val'"),
        ({"val_share": 1}, "val_share must be a share between 0 and 1"),
        ({"mean": [0.5, 0.5]}, "mean must be three numbers from 0 to 1"),
        ({"mean": [123.675, 116.28, 103.53]}, "mean must be three numbers from 0 to 1"),
        ({"std": [0.2, 0.2, 0]}, "std must be three numbers above 0"),
        ({"std": [0.2, 0.2, float("nan")]}, "std must be"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(pictures, options, told):
    with pytest.raises(ValueError, match=told):
        folder(pictures, **options)
