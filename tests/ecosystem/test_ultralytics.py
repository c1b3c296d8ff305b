"""Ultralytics trains a network that it builds itself, and leads modules other ways than their forward pass."""

import copy
import os
import pickle
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image

import bam
from tests.conftest import restless

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "train_yolo.py")
SITES = ["model.2", "model.4", "model.6"]
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setitem(os.environ, "YOLO_OFFLINE", "1")
    pytest.importorskip("ultralytics.nn.tasks", reason="comes with the dev extra")


def yolo():
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    return restless(DetectionModel("yolov8n.yaml", nc=4, verbose=False)).eval()


def split(model):
    """As its exporter does for some formats."""
    from ultralytics.nn.modules.block import C2f

    for module in model.modules():
        if isinstance(module, C2f):
            module.forward = module.forward_split
    return model


def test_attention_runs_on_the_ways_of_fuse_and_export():
    model = bam.attach(yolo(), image=64)
    for module in bam.attended(model).values():
        restless(module)
    expected = model.eval()(IMAGES)[0]
    torch.testing.assert_close(copy.deepcopy(model).fuse(verbose=False)(IMAGES)[0], expected, rtol=1e-3, atol=1e-3)
    led = split(copy.deepcopy(model))
    assert led.model[2].forward != model.model[2].forward
    for twin in (led, copy.deepcopy(led), pickle.loads(pickle.dumps(led))):
        assert torch.equal(twin(IMAGES)[0], expected)
    later = bam.attach(split(yolo()), image=64).eval()
    later.load_state_dict(model.state_dict())
    assert torch.equal(later(IMAGES)[0], expected)
    detached = bam.detach(later)
    assert torch.equal(detached(IMAGES)[0], bam.detach(model)(IMAGES)[0])
    assert detached.model[2].forward == detached.model[2].forward_split


def write_squares(folder):
    """Four images with a square each, in Ultralytics' layout."""
    for part in ("train", "val"):
        (folder / "images" / part).mkdir(parents=True)
        (folder / "labels" / part).mkdir(parents=True)
        for k in range(4):
            image = Image.new("RGB", (64, 64))
            image.paste((220, 60, 60), (8 * k, 8, 8 * k + 24, 32))
            image.save(folder / "images" / part / f"{k}.png")
            (folder / "labels" / part / f"{k}.txt").write_text(f"0 {(8 * k + 12) / 64} {20 / 64} {24 / 64} {24 / 64}\n")
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: {{0: square}}\n")
    return data


@pytest.mark.filterwarnings("ignore")  # of Ultralytics
def test_training_with_the_trainer_of_the_example(tmp_path):
    from ultralytics import YOLO

    trainer = runpy.run_path(EXAMPLE)["AttentionTrainer"]
    model = YOLO("yolo11n.yaml")
    options = {"imgsz": 64, "epochs": 1, "plots": False, "project": str(tmp_path / "runs"), "workers": 0}
    model.train(trainer=trainer, data=str(write_squares(tmp_path / "squares")), **options)
    trained = YOLO(model.trainer.best).model
    assert list(bam.attended(trained)) == list(bam.attended(model.trainer.model)) == SITES
    weights = restless(copy.deepcopy(trained).float())
    again = model.trainer.get_model(cfg=trained.yaml, weights=weights, verbose=False)
    assert all(torch.equal(value, weights.state_dict()[key]) for key, value in again.state_dict().items())
