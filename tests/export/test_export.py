import os
import subprocess
import sys
import warnings

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import bam
from bam.export import TOLERANCE, export_model, formats
from bam.models import build
from tests.conftest import restless

SUFFIXES = (".pt2", ".onnx", ".torchscript")


def network():
    """An attended network that uses all of its attention, as after training."""
    model = restless(bam.attach(build("cifar/resnet8", 10), identity=True)).eval()
    for module in bam.attended(model).values():
        nn.init.constant_(module.scale, 1.0)
    return model


class FixedSize(nn.Module):
    """Flattens 16 x 16 places: height and width cannot differ."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 16 * 16, 5)

    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(1))


class Plain(nn.Module):
    """A convolution and then any function."""

    def __init__(self, after):
        super().__init__()
        self.conv, self.after = nn.Conv2d(3, 4, 3, padding=1), after

    def forward(self, x):
        return self.after(self.conv(x))


def run_file(path, images):
    """Run a file as its user would, without anything of ours."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"image": images.numpy()})[0])
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
        return torch.jit.load(path)(images)


@torch.no_grad()
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_at_sizes_that_were_not_traced(suffix, tmp_path):
    model = network()
    if suffix == ".onnx":  # in the other layout, in which BAM computes its reductions another way
        model = model.to(memory_format=torch.channels_last)
    exported = export_model(model, tmp_path / "new" / f"net{suffix}", 32)
    assert os.listdir(tmp_path / "new") == [f"net{suffix}"] and exported.path.stat().st_size > 4 * 80_000
    sizes = [check.shape for check in exported.checks]
    assert sizes == [(2, 3, 32, 32), (1, 3, 64, 96), (3, 3, 65, 33)]
    assert all(check.relative <= TOLERANCE["fp32"] and check.agreement == 1 for check in exported.checks)
    images = torch.randn(4, 3, 37, 50)
    expected = model(images)
    torch.testing.assert_close(run_file(exported.path, images), expected, rtol=1e-4, atol=1e-4)
    assert (bam.detach(model)(images) - expected).abs().max() > 0.1  # the file has the attention in it


@torch.no_grad()
def test_onnx_is_one_file_with_named_axes(tmp_path):
    model = Plain(lambda x: x.mean((2, 3)))
    path = export_model(model, tmp_path / "net.onnx", 32, dynamic=("batch", "width")).path
    assert os.listdir(tmp_path) == ["net.onnx"]
    (graph_input,) = onnx.load(path).graph.input
    assert [d.dim_param or d.dim_value for d in graph_input.type.tensor_type.shape.dim] == ["batch", 3, 32, "width"]
    images = torch.randn(3, 3, 32, 45)
    torch.testing.assert_close(run_file(path, images), model(images))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_model_is_left_as_it_was(suffix, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.Dropout()), bam.BAM(4)).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    export_model(model, tmp_path / f"net{suffix}", 32, dynamic=())
    with pytest.raises(ValueError, match="not written"):
        export_model(model, tmp_path / f"net{suffix}", 32, dynamic=(), tolerance=-1.0)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def another_network(model, image, dynamic):
    return formats.to_torchscript(network(), image, dynamic)


@pytest.mark.parametrize(
    ("suffix", "writer", "message"),
    [
        (
            ".torchscript",
            another_network,
            r"the file's outputs differ from the network's: 2 images as 2 x 3 x 32 x 32: differs by",
        ),
        (".torchscript", lambda *_: b"rubbish", "does not load"),
        (".pt2", lambda *_: b"rubbish", "does not load"),
        (".onnx", lambda *_: b"rubbish", "does not load"),
        (".onnx", lambda *_: b"", "does not load"),
    ],
)
def test_a_wrong_file_is_not_kept(suffix, writer, message, tmp_path, monkeypatch):
    monkeypatch.setitem(formats.FORMATS, suffix, writer)
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"the old file")
    with pytest.raises(ValueError, match=message) as raised:
        export_model(network(), path, 32)
    assert str(raised.value).startswith(f"{path} was not written") and "\n" not in str(raised.value)
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == b"the old file"


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing_behind(function, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="No space left"):
        export_model(FixedSize(), tmp_path / "net.torchscript", 16, dynamic=())
    assert not os.listdir(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_network_of_one_size(suffix, tmp_path):
    model, path = FixedSize(), tmp_path / f"net{suffix}"
    message = r"FixedSize cannot have batch, height, width dynamic.*\(1, 3, 48, 80\).*try dynamic=\(\"batch\",\)"
    with pytest.raises(ValueError, match=message):
        export_model(model, path, 16)
    assert not os.listdir(tmp_path)
    exported = export_model(model, path, 16, dynamic=("batch",))
    assert [check.shape[0] for check in exported.checks] == [2, 1, 3]
    images = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(run_file(path, images), model(images))


def freeze_height(x):
    return nn.functional.interpolate(x.mean((2, 3), keepdim=True), (int(x.shape[2]), x.shape[3]))


def test_an_axis_that_tracing_froze(tmp_path):
    model = Plain(freeze_height)
    message = r"cannot have height dynamic: You marked .* specialized it to be a constant \(16\); try"
    with pytest.raises(ValueError, match=message):
        export_model(model, tmp_path / "net.pt2", 16)
    with pytest.raises(
        ValueError, match=r"outputs have shapes \[\(1, 4, 16, \d+\)\], but the network's have \[\(1, 4, 48, 80\)\]"
    ):
        export_model(model, tmp_path / "net.torchscript", 16)
    assert not os.listdir(tmp_path)
    exported = export_model(model, tmp_path / "net.pt2", 16, dynamic=("batch", "width"))
    assert [check.shape for check in exported.checks] == [(2, 3, 16, 16), (1, 3, 16, 80), (3, 3, 16, 17)]


def test_a_range_that_tracing_narrowed(tmp_path):
    with pytest.raises(ValueError, match=r"fails on images \(1, 3, 64, 96\): Guard failed.*pass a larger image="):
        export_model(build("resnet18", 10), tmp_path / "net.pt2", 32)  # the last map is 1 x 1
    assert not os.listdir(tmp_path)


def test_what_a_format_does_not_take(tmp_path):
    bessel = Plain(torch.special.bessel_j0)
    with pytest.raises(
        ValueError, match=r"cannot be expressed in ONNX: No ONNX function found for .*bessel_j0.*export to \.pt2"
    ):
        export_model(bessel, tmp_path / "net.onnx", 16)
    assert export_model(bessel, tmp_path / "net.pt2", 16).checks[0].difference == 0
    by_value = Plain(lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(ValueError, match="data-dependent expression"):
        export_model(by_value, tmp_path / "other.pt2", 16)
    assert os.listdir(tmp_path) == ["net.pt2"]


def test_no_number_is_no_agreement(tmp_path):
    with pytest.raises(ValueError, match="differs by nan"):
        export_model(Plain(lambda x: (-1 - x.abs()).log()), tmp_path / "net.torchscript", 16)


def test_a_network_that_takes_multiples_of_8_is_checked_at_them(tmp_path):
    exported = export_model(Plain(lambda x: x.unflatten(3, (-1, 8))), tmp_path / "net.torchscript", 16)
    assert [check.shape for check in exported.checks] == [(2, 3, 16, 16), (1, 3, 48, 80), (3, 3, 80, 48)]


def test_many_outputs(tmp_path):
    model = Plain(lambda x: {"map": x, "means": (x.mean((2, 3)), x.amax((2, 3)))})
    exported = export_model(model, tmp_path / "net.onnx", 16)
    assert exported.checks[0].agreement is None
    assert len(onnx.load(exported.path).graph.output) == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("net.pt", {}, r"one of \.pt2, \.onnx, \.torchscript; got '\.pt'"),
        ("net.pt2", {"dynamic": ("batch", "depth")}, "choose from batch, height, width; got batch, depth"),
        ("net.pt2", {"precision": "fp16"}, r"needs an \.onnx file, got .*; fp32 works in all formats"),
        ("net.onnx", {"precision": "int4"}, "one of fp32, fp16, int8; got 'int4'"),
        ("net.onnx", {"precision": "int8"}, "needs calibration=: a few hundred typical images"),
        ("net.onnx", {"precision": "int8", "calibration": torch.zeros(8, 1, 16, 16)}, "at least 3 images with 3 chan"),
        ("net.onnx", {"precision": "int8", "calibration": torch.zeros(2, 3, 16, 16)}, r"got \(2, 3, 16, 16\)"),
        ("net.onnx", {"precision": "int8", "calibration": [(torch.zeros(8, 3, 16, 16), 1)]}, "of one size, got tuple"),
        ("net.onnx", {"precision": "int8", "calibration": []}, "of one size, got none"),
        ("net.pt2", {"image": (1, 16, 16)}, r"does not run on images \(2, 1, 16, 16\): .*pass a size, image="),
    ],
)
def test_requests_that_are_refused(name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_model(FixedSize(), tmp_path / name, **{"image": 16, "dynamic": ("batch",)} | options)
    assert not os.listdir(tmp_path)


def test_models_that_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"wrapped in DataParallel: export model\.module"):
        export_model(nn.DataParallel(FixedSize()), tmp_path / "net.pt2", 16)
    with pytest.raises(ValueError, match=r"bfloat16 parameters; export model\.float\(\)"):
        export_model(FixedSize().bfloat16(), tmp_path / "net.pt2", 16)
    monkeypatch.setattr(formats, "ONNX_LIMIT", 1000)
    with pytest.raises(ValueError, match=r"holds at most 2 GB, and this network has .* export to \.pt2"):
        export_model(FixedSize(), tmp_path / "net.onnx", 16, dynamic="batch")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"ONNX needs {package}: pip install 'bottleneck-attention\[export\]'"):
        export_model(FixedSize(), tmp_path / "net.onnx", 16)
    export_model(FixedSize(), tmp_path / "net.pt2", 16, dynamic=())  # which needs torch alone


def test_importing_the_room_is_light():
    probe = "import sys, bam.export; print(*{'onnx', 'onnxscript', 'onnxruntime', 'torchvision'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
