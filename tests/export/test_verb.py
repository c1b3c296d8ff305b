"""`bam export` with folders: written from a run or a model, and read."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bam import cli
from bam.export import from_pretrained
from bam.records import Record
from bam.training import trained_model, training_images
from tests.export.test_export import run_file
from tests.test_cli import TINY


def test_a_run_becomes_a_folder_and_that_a_file(tmp_path, capsys):
    run, folder, file = tmp_path / "run", tmp_path / "net", tmp_path / "net.onnx"
    assert cli.main(["train", "--recipe", "digits/small", *TINY, "--attention", "bam", "--out", str(run)]) == 0
    capsys.readouterr()
    assert cli.main(["export", "--run", str(run), "--out", str(folder)]) == 0
    assert f"{folder}: 0." in (message := capsys.readouterr().out) and f"from_pretrained('{folder}')" in message
    model, record = trained_model(run)
    again = from_pretrained(folder)
    images = training_images(record, count=5)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    config = again.bam_config
    assert config.classes == tuple(record.classes) and config.image_size == tuple(record.image_size)
    assert {"mean": list(config.mean), "std": list(config.std)} == record.normalization
    assert cli.main(["export", "--model", str(folder), "--out", str(file), "--no-latency"]) == 0
    assert "2 images as 2 x 3 x 16 x 16" in capsys.readouterr().out  # at its own size
    with torch.no_grad():
        torch.testing.assert_close(run_file(file, images.contiguous()), model(images), rtol=1e-4, atol=1e-4)
    assert cli.main(["export", "--model", str(folder), "--out", str(tmp_path / "copy"), "--image", "24"]) == 0
    assert from_pretrained(tmp_path / "copy").bam_config.image_size == (24, 24)
    for flags in (["--attention", "bam"], ["--num-classes", "3"], ["--weights", "x.safetensors"]):
        assert cli.main(["export", "--model", str(folder), "--out", str(file), *flags]) == 1
        assert "is a saved network with its own attention, weights and classes" in capsys.readouterr().err
    old = json.loads((run / "record.json").read_text()) | {"classes": [], "normalization": {}}
    (run / "record.json").write_text(json.dumps(old))
    assert Record.read(run).normalization == {}
    assert cli.main(["export", "--run", str(run), "--out", str(folder)]) == 1
    assert "earlier version of bam, which did not record its normalisation" in (message := capsys.readouterr().err)
    assert "folder, backbone='cifar/resnet8', mean=..., std=...)" in message


def test_a_model_becomes_a_folder(tmp_path, capsys):
    words = ["export", "--model", "cifar/resnet8", "--attention", "bam", "--num-classes", "7", "--image", "32"]
    options = ["--attention-options", '{"reduction": 8}']
    assert cli.main([*words, *options, "--out", str(tmp_path / "random")]) == 0
    model = from_pretrained(tmp_path / "random")
    config = model.bam_config
    assert (config.num_classes, config.image_size, config.classes, config.resize) == (7, (32, 32), None, 32)
    assert config.mean == (0.485, 0.456, 0.406) and config.sites["layer1"].attention.options == {"reduction": 8}
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    words += [*options, "--weights", str(tmp_path / "weights.safetensors")]
    assert cli.main([*words, "--out", str(tmp_path / "same")]) == 0
    assert cli.main([*words[:6], "9", *words[7:], "--out", str(tmp_path / "other")]) == 1
    message = (
        "does not fit cifar/resnet8; of another shape or type: fc.weight (7, 64) (the network has (9, 64)), fc.bias"
    )
    assert message in capsys.readouterr().err and not (tmp_path / "other").exists()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(from_pretrained(tmp_path / "same")(images), model(images))


@pytest.mark.parametrize("precision", ["fp16"])
def test_a_folder_holds_the_network_as_it_is(precision, tmp_path, capsys):
    words = ["export", "--model", "cifar/resnet8", "--out", str(tmp_path / "net"), "--precision", precision]
    assert cli.main(words) == 1 and not (tmp_path / "net").exists()
    assert "has no suffix, and a folder keeps fp32 weights" in capsys.readouterr().err


def test_a_damaged_folder_is_reported(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"architectures": []}')
    assert cli.main(["export", "--model", str(tmp_path), "--out", str(tmp_path / "net.onnx")]) == 1
    assert "config.json was not written by bam.export.save_pretrained" in capsys.readouterr().err


OWN = """
from torch import nn
def maps():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
def lenet():
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 10))
"""


@pytest.mark.parametrize("name", ["maps", "lenet"])
def test_networks_of_any_output_and_size_are_exported(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"own_{name}.py").write_text(OWN)
    words = ["export", "--model", f"own_{name}:{name}", "--image", "32", "--dynamic", "batch", "--out", "network.pt2"]
    assert cli.main(words) == 0, capsys.readouterr().err
