import time

import pytest
import torch
from torch import nn

from bam.costs import latency_ms
from bam.export import export_model, format_latency, measure_latency
from tests.export.test_export import FixedSize


def test_functions_beside_modules():
    seen = []

    class Probe(nn.Module):
        def forward(self, x):
            seen.append(self.training)
            time.sleep(0.002)

    times = latency_ms({"module": Probe(), "function": lambda x: time.sleep(0.02)}, torch.zeros(1), rounds=3)
    assert not any(seen) and len(seen) == 6
    assert 2 <= times["module"] < times["function"] and times["function"] >= 20


@pytest.mark.parametrize(
    ("suffix", "way"), [(".pt2", "torch.export"), (".onnx", "onnxruntime (CPU)"), (".torchscript", "TorchScript")]
)
@pytest.mark.parametrize("dynamic", [("batch",), ()])
def test_the_table(suffix, way, dynamic, tmp_path, monkeypatch):
    shapes = []
    monkeypatch.setattr(torch, "compile", lambda model: lambda x: shapes.append(tuple(x.shape)))
    model = FixedSize().train()
    exported = export_model(model, tmp_path / f"net{suffix}", (4, 3, 16, 16), dynamic)
    rows = measure_latency(model, exported, rounds=2)
    assert list(rows) == ["eager", "compiled", way] and all(value > 0 for value in rows.values())
    assert set(shapes) == {(1 if dynamic else 4, 3, 16, 16)} and model.training


def test_a_machine_without_a_compiler(tmp_path, monkeypatch):
    def no_compiler(image):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nand much more")

    monkeypatch.setattr(torch, "compile", lambda model: no_compiler)
    model = FixedSize()
    rows = measure_latency(model, export_model(model, tmp_path / "net.torchscript", 16, ()), rounds=2)
    assert rows["compiled"] == "not measured: InvalidCxxCompiler: No working C++ compiler found"
    assert rows["eager"] > 0 and rows["TorchScript"] > 0


def test_the_table_in_words():
    shown = format_latency({"eager": 12.345, "compiled": "not measured: why", "onnxruntime (CPU)": 1.0})
    assert shown.splitlines() == [
        "eager                  12.35 ms",
        "compiled           not measured: why",
        "onnxruntime (CPU)       1.00 ms",
    ]
