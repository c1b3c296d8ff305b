"""`bam predict`: detections in images of one's own."""

import json

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from bam import cli
from bam.data.files.decoding import read_rgb
from bam.recipes import DetectionRecipe
from bam.tasks.detection.pictures import draw
from bam.tasks.detection.predict import find
from bam.training import run, trained_model
from tests.data.pictures import paint

DETECT = DetectionRecipe(
    data_options={"canvas": 32, "num_train": 32, "num_test": 8, "augmentation": "none"},
    model="ssd_resnet8",
    batch_size=16,
    epochs=1,
    precision="fp32",
    lr=0.01,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(DETECT, folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    """A folder of three images, of different kinds, and other things."""
    paint(tmp_path / "photos" / "b.jpg", 1, size=(60, 50))
    paint(tmp_path / "photos" / "a.png", 2, size=(40, 70))
    with Image.open(tmp_path / "photos" / "a.png") as image:
        image.convert("L").save(tmp_path / "photos" / "c.PNG")
    paint(tmp_path / "photos" / "more" / "d.png", 3)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def predict(trained, images, out, *more):
    return cli.main(["predict", "--run", str(trained), "--images", str(images), "--out", str(out), *more])


def test_images_of_a_folder(trained, photos, tmp_path, capsys):
    assert predict(trained, photos, tmp_path / "out", "--score", "0.1") == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "c.png", "predictions.json"]
    rows = json.loads((out / "predictions.json").read_text())
    names = [str(photos / name) for name in ("a.png", "b.jpg", "c.PNG")]
    assert rows and {row["file_name"] for row in rows} <= set(names)
    model, record = trained_model(trained)
    for name in names:
        pixels = pil_to_tensor(read_rgb(name))
        detected = find(model, pixels.float() / 255)
        mine = [row for row in rows if row["file_name"] == name]
        assert len(mine) == int((detected.scores >= 0.1).sum()) > 0
        for row, box, score, label in zip(mine, detected.boxes, detected.scores, detected.labels, strict=False):
            x, y, width, height = row["bbox"]
            assert [x, y, x + width, y + height] == pytest.approx(box.tolist(), abs=1e-3)
            assert row["score"] == pytest.approx(score.item(), abs=1e-4) and row["score"] >= 0.1
            assert row["category"] == record.classes[label - 1]
        picture = out / f"{name.rpartition('/')[2].partition('.')[0]}.png"
        assert torch.equal(pil_to_tensor(read_rgb(str(picture))), draw(pixels, detected, record.classes, 0.1))
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in printed[:-1]] == [*names, "skipped"]
    first = rows[0]
    assert f"{first['category']} {first['score']:.2f}" in printed[0]
    assert printed[-1] == f"pictures and predictions.json in {out}"


def test_files_and_folders_together(trained, photos, tmp_path, capsys):
    assert predict(trained, f"{photos}/more,{photos}/b.jpg", tmp_path / "out", "--score", "0.9") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.png", "d.png", "predictions.json"]
    printed = capsys.readouterr().out
    assert printed.count("nothing with a score of 0.9 or more") == 2  # so little training is sure of nothing
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []
    assert read_rgb(str(tmp_path / "out" / "b.png")).size == (360, 300)


def test_a_broken_image_is_named(trained, photos, tmp_path, capsys):
    (photos / "b.jpg").write_bytes((photos / "b.jpg").read_bytes()[:200])
    assert predict(trained, photos, tmp_path / "out") == 0
    assert f"left out: {photos / 'b.jpg'} cannot be read as an image: " in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png", "predictions.json"]
    (photos / "b.jpg").write_text("no image")
    assert predict(trained, photos / "b.jpg", tmp_path / "none") == 1
    message = (
        f"none of the 1 images can be read: {photos / 'b.jpg'} cannot be read as an image: it is empty, or not an image"
    )
    assert message in capsys.readouterr().err and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere", "there is no image {0}/nowhere"),
        ("photos/nothing.png", "there is no image {0}/photos/nothing.png"),
        ("empty", "the folder {0}/empty holds no images (.jpg, "),
        ("photos/a.png,{0}/twice/a.jpg", "several images would be written to {0}/out/a.png: {0}/photos/a.png"),
    ],
)
def test_what_cannot_be_meant_is_reported(trained, photos, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    paint(tmp_path / "twice" / "a.jpg", 4)
    assert predict(trained, f"{tmp_path}/{words.format(tmp_path)}", tmp_path / "out") == 1
    assert message.format(tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_is_refused(photos, tmp_path, capsys):
    assert predict(tmp_path, photos, tmp_path / "out") == 1
    assert "holds no complete run" in capsys.readouterr().err


@pytest.mark.parametrize("score", ["-0.1", "1.5", "30"])
def test_a_score_that_cannot_be_meant_is_reported(trained, photos, tmp_path, capsys, score):
    assert predict(trained, photos, tmp_path / "out", f"--score={score}") == 1
    assert "score" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_ones_own_images_are_not_drawn_over(trained, photos):
    before = {path: path.read_bytes() for path in photos.iterdir() if path.is_file()}
    predict(trained, photos, photos)
    assert all(path.read_bytes() == content for path, content in before.items())
