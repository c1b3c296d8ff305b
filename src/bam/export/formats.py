"""Write a network to one of the three file formats, and load a file as a function."""

import importlib
import io
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bam.export.reasons import REFUSALS, onnxruntime_refusals, reason
from bam.export.sizes import AXES, advice

#: Largest size of an ONNX file's weights in bytes: a protobuf message is limited to 2 GB.
ONNX_LIMIT = 2_000_000_000


def to_pt2(model: nn.Module, image: Tensor, dynamic: Sequence[str]) -> bytes:
    """The content of a .pt2 file: the network, traced by `torch.export` on `image` (N, C, H, W).

    Raises:
        ValueError: if the network cannot be exported, or cannot have these axes dynamic.
    """
    buffer = io.BytesIO()
    torch.export.save(_program(model, image, dynamic), buffer)
    return buffer.getvalue()


def to_onnx(model: nn.Module, image: Tensor, dynamic: Sequence[str]) -> bytes:
    """The content of an .onnx file: the network with input `image` (N, C, H, W) and its output's leaves in order.

    Raises:
        ValueError: if the network cannot be exported, cannot have these axes dynamic, or is too large.
        ImportError: if a package that ONNX needs is missing.
    """
    need_onnx()
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    if weights > ONNX_LIMIT:
        size = f"{weights / 1e9:.1f} GB"
        raise ValueError(f"an ONNX file holds at most 2 GB, and this network has {size} of weights; export to .pt2")
    names = {place: name for name, place in AXES.items() if name in dynamic}
    program = _program(model, image, dynamic)
    try:
        converted = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["image"], dynamic_shapes=(names,) if names else None
        )
    except torch.onnx.OnnxExporterError as error:
        problem = f"{type(model).__name__} cannot be expressed in ONNX: {reason(error)}"
        raise ValueError(f"{problem}; export to .pt2, or replace that operation") from error
    assert converted is not None
    return converted.model_proto.SerializeToString()


def to_torchscript(model: nn.Module, image: Tensor, dynamic: Sequence[str]) -> bytes:
    """The content of a .torchscript file: the network, traced by `torch.jit.trace` on `image` (N, C, H, W).

    Raises:
        ValueError: if the network cannot be traced.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        _silence_torchscript()
        # Tracing freezes Python branches that depend on the shape of `image`; the check at other sizes catches this.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        try:
            torch.jit.save(torch.jit.trace(model, image, strict=False, check_trace=False), buffer)
        except REFUSALS as error:
            raise ValueError(f"torch.jit.trace cannot trace {type(model).__name__}: {reason(error)}") from error
    return buffer.getvalue()


#: File suffix -> function that returns the file's content.
FORMATS: dict[str, Callable[[nn.Module, Tensor, Sequence[str]], bytes]] = {
    ".pt2": to_pt2,
    ".onnx": to_onnx,
    ".torchscript": to_torchscript,
}


def open_file(path: Path) -> Callable[[Tensor], Any]:
    """Load an exported file as a function of images (N, C, H, W). Only for trusted files: loading may unpickle."""
    if path.suffix == ".onnx":
        return _open_onnx(path)
    if path.suffix == ".pt2":
        return torch.export.load(path).module().__call__  # only the call: an exported module has no eval()
    with warnings.catch_warnings():
        _silence_torchscript()
        return torch.jit.load(path)


def need_onnx() -> None:
    """Raise an ImportError with the install command if a package that ONNX needs is missing."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise ImportError(f"ONNX needs {package}: pip install 'bottleneck-attention[export]'") from None


def _open_onnx(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """Load the file into onnxruntime on the CPU, with torch's number of threads; it returns the output's leaves."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised, not logged
    with onnxruntime_refusals():
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        with onnxruntime_refusals():
            return [torch.from_numpy(output) for output in session.run(None, {"image": images.cpu().numpy()})]

    return run


def _program(model: nn.Module, image: Tensor, dynamic: Sequence[str]) -> torch.export.ExportedProgram:
    axes = {AXES[name]: torch.export.Dim.DYNAMIC for name in dynamic}
    try:
        return torch.export.export(model, (image,), dynamic_shapes=(axes,))
    except REFUSALS as error:
        places = set(re.findall(r"size\(\)\[(\d)\]", str(error)))
        names = [name for name in dynamic if str(AXES[name]) in places]
        problem = f"cannot have {', '.join(names)} dynamic" if names else "cannot be exported"
        hint = advice(dynamic) if names else "remove the operation it names from forward(), or export to .torchscript"
        raise ValueError(f"{type(model).__name__} {problem}: {reason(error)}; {hint}") from error


def _silence_torchscript() -> None:
    # torch deprecates TorchScript in favour of torch.export (.pt2), but some runtimes still need it.
    for category in (FutureWarning, DeprecationWarning):  # depending on torch's version
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", category)
