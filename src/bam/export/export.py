"""Export a network to a file for other runtimes, and keep the file only if it matches the network."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from bam.dryrun import Image, left_as_it_was
from bam.export.formats import FORMATS, need_onnx, open_file
from bam.export.keywords import check_keywords
from bam.export.parity import TOLERANCE, Check, compare, gather, images_at
from bam.export.precision import to_fp16, to_int8
from bam.export.reasons import REFUSALS, reason
from bam.export.sizes import AXES, Shape, sizes_to_check
from bam.files import write_atomically
from bam.surgery.wrapping import refuse_wrapped


@dataclass(frozen=True)
class Exported:
    """An exported file and how its outputs compare with the network's."""

    path: Path
    precision: str
    dynamic: tuple[str, ...]  #: axes whose size may vary from call to call
    checks: tuple[Check, ...]  #: one per checked size, the traced size first

    def __str__(self) -> str:
        sizes = f"any {', '.join(self.dynamic)}" if self.dynamic else "one size"
        megabytes = self.path.stat().st_size / 1e6
        head = f"{self.path}: {megabytes:.1f} MB, {self.precision}, {sizes}; compared with the network:"
        return "\n".join([head, *(f"  {check}" for check in self.checks)])


class PrecisionOptions(TypedDict, total=False):
    """The precision of an exported file and its allowed difference from the network, see `export_model`."""

    precision: str
    calibration: Tensor | Iterable[Tensor] | None
    tolerance: float | None


def export_model(
    model: nn.Module,
    path: str | Path,
    image: Image | None = None,
    dynamic: Sequence[str] = tuple(AXES),
    **options: Unpack[PrecisionOptions],
) -> Exported:
    """Write `model` in eval mode to `path`, if the file computes the same outputs as the model.

    The file is loaded back from disk and compared with the model at the traced size and at two other sizes that differ
    in every dynamic axis. Only then does it replace an existing file at `path`; the model's state is restored. The
    suffix chooses the format: .pt2 (`torch.export.load(path).module()`), .onnx (one file; input "image") or
    .torchscript (`torch.jit.load`).

    Args:
        model: a network with float32 parameters; its output is any nesting of tensors.
        path: the file; its folder is created.
        image: an image (N, C, H, W) or a size to trace at: a side, (H, W) or (C, H, W), in pixels; default: the size of
            the `calibration` images, else the model's own input size or 224 x 224.
        dynamic: which of "batch", "height", "width" may vary from call to call.
        precision: "fp32"; for .onnx also "fp16" (weights and arithmetic) or "int8" (statically quantised, QDQ).
        calibration: typical images, normalised as in training: a tensor (N, C, H, W) or batches. int8 derives the
            feature ranges from them; the comparison uses them, resized, instead of normal noise.
        tolerance: largest allowed difference, as a share of the largest output; default: `TOLERANCE[precision]`.

    Raises:
        ValueError: for an unknown suffix, axis or precision; an axis that cannot be dynamic; a network that the format
            cannot express; a difference above the tolerance. An existing file at `path` then remains unchanged.
        ImportError: if a package that .onnx needs is missing.
    """
    check_keywords("export_model", options, PrecisionOptions)
    precision, calibration = options.get("precision", "fp32"), options.get("calibration")
    tolerance = options.get("tolerance")
    path, dynamic = Path(path), (dynamic,) if isinstance(dynamic, str) else tuple(dynamic)
    _check_request(model, path, dynamic, precision, calibration is not None)
    examples = None if calibration is None else gather(calibration)
    if image is None and examples is not None:
        image = tuple(examples.shape[1:])
    with left_as_it_was(model):
        shapes = sizes_to_check(model, image, dynamic)
        batches = _batches(model, shapes, examples)
        traced = batches[0][0] * 0  # unlike the check's images, so that the check notices values frozen by tracing
        content = _lowered(FORMATS[path.suffix](model, traced, dynamic), precision, batches[0])
        checks = _write(path, content, model, batches, TOLERANCE[precision] if tolerance is None else tolerance)
    return Exported(path, precision, dynamic, tuple(checks))


def _check_request(model: nn.Module, path: Path, dynamic: Sequence[str], precision: str, calibrated: bool) -> None:
    """Raise ValueError for requests that are wrong without running the model."""
    refuse_wrapped(model, "export")
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: the suffix chooses the format, one of {', '.join(FORMATS)}; got {path.suffix!r}")
    if set(dynamic) - set(AXES):
        raise ValueError(f"dynamic: choose from {', '.join(AXES)}; got {', '.join(dynamic)}")
    if precision not in TOLERANCE:
        raise ValueError(f"precision: choose one of {', '.join(TOLERANCE)}; got {precision!r}")
    if precision != "fp32" and path.suffix != ".onnx":
        raise ValueError(f"precision {precision} needs an .onnx file, got {path}; fp32 works in all formats")
    if precision == "int8" and not calibrated:
        raise ValueError(
            "int8 needs calibration=: a few hundred typical images (N, C, H, W), normalised as in training"
        )
    types = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()} - {"float32"}
    if types:
        raise ValueError(
            f"the model has {', '.join(types)} parameters; export model.float() and choose the file's precision with "
            "precision="
        )
    if path.suffix == ".onnx":
        need_onnx()


def _batches(model: nn.Module, shapes: Sequence[Shape], examples: Tensor | None) -> list[list[Tensor]]:
    """The batches to check with at each of `shapes`: all examples at the first, one batch at each other."""
    largest, channels = max(shape[0] for shape in shapes), shapes[0][1]
    if examples is not None and (len(examples) < largest or examples.shape[1] != channels):
        needed = f"at least {largest} images with {channels} channels"
        raise ValueError(f"calibration: pass {needed}, got {tuple(examples.shape)}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    first, *others = shapes
    subset = None if examples is None else examples[:largest]
    return [images_at(first, examples, device), *(images_at(shape, subset, device)[:1] for shape in others)]


def _lowered(content: bytes, precision: str, batches: Sequence[Tensor]) -> bytes:
    """The file's content converted to `precision`."""
    try:
        if precision == "fp16":
            return to_fp16(content)
        return to_int8(content, batches) if precision == "int8" else content
    except REFUSALS as error:
        raise ValueError(f"this network cannot be exported in {precision}: {reason(error)}; try fp32") from error


def _write(
    path: Path, content: bytes, model: nn.Module, batches: Sequence[Sequence[Tensor]], tolerance: float
) -> list[Check]:
    """Write `content` to `path` if it passes the checks; otherwise change nothing."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write_atomically(temporary, content)
        checks = _checked(model, temporary, batches, tolerance)
        os.replace(temporary, path)
        return checks
    except ValueError as error:
        raise ValueError(f"{path} was not written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _checked(model: nn.Module, file: Path, batches: Sequence[Sequence[Tensor]], tolerance: float) -> list[Check]:
    """Check the file on disk; raises a ValueError if a check fails."""
    try:
        run = open_file(file)
    except REFUSALS as error:
        raise ValueError(f"the file does not load: {reason(error)}") from error
    checks = []
    for images in batches:
        checks.append(compare(model, run, images))
        if not checks[-1].relative <= tolerance:  # NaN fails, too
            problem = f"the file's outputs differ from the network's: {checks[-1]}"
            raise ValueError(f"{problem}; the limit is {tolerance:g} relative (tolerance=)")
    return checks
