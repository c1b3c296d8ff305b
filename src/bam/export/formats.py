"""The three kinds of files: how a network becomes one, and how one becomes a function again."""

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

#: Bytes of weights that an ONNX file holds: a protobuf message ends at 2 GB.
ONNX_LIMIT = 2_000_000_000


def to_pt2(model: nn.Module, image: Tensor, dynamic: Sequence[str]) -> bytes:
    """The network, traced by `torch.export` on `image` (N, C, H, W), as the content of a .pt2 file."""
    buffer = io.BytesIO()
    torch.export.save(_program(model, image, dynamic), buffer)
    return buffer.getvalue()


def to_onnx(model: nn.Module, image: Tensor, dynamic: Sequence[str]) -> bytes:
    """The network as the content of an .onnx file: input `image`, outputs in the order of their leaves."""
    need_onnx()
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    if weights > ONNX_LIMIT:
        raise ValueError(f"an ONNX file holds 2 GB, this network has {weights / 1e9:.1f} GB of weights; export to .pt2")
    names = {place: name for name, place in AXES.items() if name in dynamic}
    program = _program(model, image, dynamic)
    try:
        converted = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["image"], dynamic_shapes=(names,) if names else None
        )
    except torch.onnx.OnnxExporterError as error:
        what = f"{type(model).__name__} has no form in ONNX: {reason(error)}"
        raise ValueError(f"{what}; export to .pt2, or replace that operation") from error
    assert converted is not None
    return converted.model_proto.SerializeToString()


def to_torchscript(model: nn.Module, image: Tensor, dynamic: Sequence[str]) -> bytes:
    """The network, traced by `torch.jit.trace` on `image`, as the content of a .torchscript file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        _silence_torchscript()
        # A Python branch on a shape is frozen as it was on `image`: the check at other sizes shows whether it matters.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        try:
            torch.jit.save(torch.jit.trace(model, image, strict=False, check_trace=False), buffer)
        except REFUSALS as error:
            raise ValueError(f"torch.jit.trace does not take {type(model).__name__}: {reason(error)}") from error
    return buffer.getvalue()


#: Suffix of the file -> what makes its content.
FORMATS: dict[str, Callable[[nn.Module, Tensor, Sequence[str]], bytes]] = {
    ".pt2": to_pt2,
    ".onnx": to_onnx,
    ".torchscript": to_torchscript,
}


def open_file(path: Path) -> Callable[[Tensor], Any]:
    """The function in an exported file; it takes images (N, C, H, W). For files of your own: loading may unpickle."""
    if path.suffix == ".onnx":
        return _open_onnx(path)
    if path.suffix == ".pt2":
        return torch.export.load(path).module().__call__  # a function: it has no eval() of its own
    with warnings.catch_warnings():
        _silence_torchscript()
        return torch.jit.load(path)


def need_onnx() -> None:
    """Raise an ImportError that says what to install, unless everything that ONNX needs is here."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise ImportError(f"ONNX needs {package}: pip install 'bottleneck-attention[export]'") from None


def _open_onnx(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """The file in onnxruntime on the CPU, with as many threads as torch has; returns the leaves of the output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
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
        what = f"cannot have {', '.join(names)} dynamic" if names else "cannot be exported"
        hint = advice(dynamic) if names else "take what it names out of forward(), or export to .torchscript"
        raise ValueError(f"{type(model).__name__} {what}: {reason(error)}; {hint}") from error


def _silence_torchscript() -> None:
    # torch deprecates TorchScript in favour of torch.export, which .pt2 is for; whoever asks for it needs it.
    for category in (FutureWarning, DeprecationWarning):  # which of the two depends on torch's version
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", category)
