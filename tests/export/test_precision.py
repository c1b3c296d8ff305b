from collections import Counter

import onnx
import pytest
import torch
from torch.nn.functional import interpolate

from bam.export import TOLERANCE, export_model, formats
from tests.export.test_export import network, run_file


def smooth(count, side=32):
    """Images with the coarse structure that photographs have and noise has not."""
    return interpolate(torch.randn(count, 3, 8, 8), (side, side), mode="bicubic")


@pytest.fixture(scope="module")
def converted():
    torch.manual_seed(0)
    model = network()
    with torch.no_grad():
        return model, formats.to_onnx(model, torch.zeros(2, 3, 32, 32), ("batch", "height", "width"))


@pytest.fixture
def full(converted, monkeypatch):
    """(A network, the size of its ONNX file), converted once for all tests."""
    model, content = converted
    monkeypatch.setitem(formats.FORMATS, ".onnx", lambda *_: content)
    return model, len(content)


@torch.no_grad()
def test_fp16_halves_the_file_and_keeps_float32_at_the_doors(full, tmp_path):
    model, size = full
    exported = export_model(model, tmp_path / "net.onnx", 32, precision="fp16")
    assert exported.path.stat().st_size < 0.7 * size  # of so small a network the graph is a fifth
    graph = onnx.load(exported.path).graph
    assert Counter(weight.data_type for weight in graph.initializer)[onnx.TensorProto.FLOAT16] > 20
    images = torch.randn(8, 3, 40, 56)
    expected, actual = model(images), run_file(exported.path, images)
    assert actual.dtype == torch.float32
    assert 0 < (actual - expected).abs().max() < TOLERANCE["fp16"] * expected.abs().max()
    assert all(check.agreement == 1 for check in exported.checks)


@torch.no_grad()
def test_int8_of_all_but_linear_layers(full, tmp_path):
    model, size = full
    calibration = smooth(40)
    exported = export_model(model, tmp_path / "net.onnx", precision="int8", calibration=calibration.split(16))
    assert exported.checks[0].shape == (2, 3, 32, 32) and exported.checks[0].images == 40
    assert exported.path.stat().st_size < 0.4 * size
    graph = onnx.load(exported.path).graph
    assert Counter(node.op_type for node in graph.node)["QuantizeLinear"] >= 20
    plain = {weight.name for weight in graph.initializer if weight.data_type == onnx.TensorProto.FLOAT}
    assert [node.input[1] in plain for node in graph.node if node.op_type == "Gemm"] == [True] * 5
    assert not any(node.input[1] in plain for node in graph.node if node.op_type == "Conv")
    images = smooth(64)
    expected, actual = model(images), run_file(exported.path, images)
    assert 0 < (actual - expected).abs().max() < 0.05 * expected.abs().max()
    assert (actual.argmax(1) == expected.argmax(1)).double().mean() > 0.8


def test_int8_ranges_come_from_the_calibration(full, tmp_path):
    model, _ = full
    exported = export_model(model, tmp_path / "net.onnx", precision="int8", calibration=0.01 * smooth(8))
    images = smooth(64)
    with torch.no_grad():
        expected, actual = model(images), run_file(exported.path, images)
    assert (actual - expected).abs().max() > TOLERANCE["int8"] * expected.abs().max()


def test_a_loss_above_the_tolerance_is_reported(full, tmp_path):
    message = r"40 images as 2 x 3 x 32 x 32: differs by .*, top-1 agrees on .*; the limit is 0\.001 relative"
    with pytest.raises(ValueError, match=message):
        export_model(full[0], tmp_path / "net.onnx", precision="int8", calibration=smooth(40), tolerance=1e-3)
    assert not list(tmp_path.iterdir())
