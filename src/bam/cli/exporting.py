"""The verb export."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from bam.export import NetworkDescription


def export(
    out: Path,
    run: Path | None = None,
    model: str | None = None,
    attention: str = "none",
    attention_options: dict[str, Any] | None = None,
    sites: list[str] | None = None,
    weights: Path | None = None,
    num_classes: int | None = None,
    image: int | None = None,
    dynamic: str = "batch,height,width",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    latency: bool = True,
    data_root: Path | None = None,
) -> None:
    """Write a network to a file for other runtimes, or to a folder that gives it back, checked before it is kept.

    Give either a run (its network and weights) or a model. The file takes batches of normalised images.

    Args:
        out: a file, whose suffix is the format: .onnx, .pt2 (torch.export) or .torchscript; without a suffix a folder
            of weights, classes and normalisation (ImageNet's for a --model) for bam.export.from_pretrained or --model.
        run: folder of a complete run.
        model: network, see `bam models`, or such a folder.
        attention: module to put at the bottlenecks of the model, or "none".
        attention_options: passed to it, e.g. '{"layout": "released"}'.
        sites: where to put it, see `bam sites` (default: the bottlenecks), e.g. "every block".
        weights: a .safetensors file for the model, its attention included (default: random weights).
        num_classes: outputs of the model (default: its own).
        image: side of the image in pixels to trace at (default: that of the run, or the network's own, or 224).
        dynamic: axes of a file that may differ from call to call, of batch, height and width; "" for none.
        precision: fp32; for .onnx also fp16, or int8, which calibrates on 256 training images of the run.
        latency: time the file beside the network, as it is and compiled.
        data_root: folder of the data that int8 calibrates on (default: $BAM_DATA, or data).
    """
    if (run is None) == (model is None):
        raise ValueError("give one of --run and --model")
    calibration = None
    if model is not None:
        if precision == "int8":
            raise ValueError("int8 calibrates on training images: give --run, or call bam.export.export_model")
        net, description = _network(model, attention, attention_options, sites, weights, num_classes, image)
    elif attention != "none" or attention_options or sites or weights or num_classes:
        raise ValueError("--attention, its options, --weights and --num-classes are for --model: a run has its own")
    else:
        net, description, record = _trained(Path(str(run)), out)
        if precision == "int8" and out.suffix:
            from bam.training import training_images

            calibration = training_images(record, data_root)
    if not out.suffix:
        _save(net, out, precision, description, image)
    else:
        _export(net, out, image or description.get("image_size"), dynamic, precision, calibration, latency)


def _trained(run: Path, out: Path) -> tuple[Any, "NetworkDescription", Any]:
    """The network of a run, its description (for a file the image size is enough) and the record."""
    from bam.export.description import describe_run
    from bam.training import trained_model

    net, record = trained_model(run)
    if record.recipe.get("task") == "detection":
        raise ValueError(f"{run} is a run of detection, and bam export writes classifiers; to use it: bam predict")
    return net, {"image_size": record.image_size} if out.suffix else describe_run(record), record


def _network(
    model: str,
    attention: str,
    attention_options: dict[str, Any] | None,
    sites: list[str] | None,
    weights: Path | None,
    num_classes: int | None,
    image: int | None,
) -> tuple[Any, "NetworkDescription"]:
    """The network that the flags name, and its description."""
    from bam.export import from_pretrained
    from bam.export.description import describe_named, describe_saved
    from bam.models import build
    from bam.surgery import attach

    if Path(model, "config.json").is_file():
        if attention != "none" or attention_options or sites or weights or num_classes:
            raise ValueError(f"{model} is a saved network, which has its own attention, weights and classes")
        net = from_pretrained(model)
        return net, describe_saved(net)
    net = build(model, num_classes)
    if attention != "none":
        attach(net, attention, sites=sites, image=image, **(attention_options or {}))
    elif attention_options or sites:
        raise ValueError("--attention-options and --sites are for an attention: give --attention, e.g. bam")
    if weights is not None:
        from bam.tensors import load_tensors, read_safetensors

        load_tensors(net, read_safetensors(weights)[0], weights, model)
    return net, describe_named(net, model, num_classes)


def _save(net: Any, folder: Path, precision: str, description: "NetworkDescription", image: int | None) -> None:
    """Write the folder that gives the network back."""
    from bam.export import save_pretrained
    from bam.export.description import at_image_size

    if precision != "fp32":
        raise ValueError(f"{folder} has no suffix: a folder holds the network as it is, --precision is for .onnx files")
    save_pretrained(net, folder, **at_image_size(description, image) if image else description)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    own = ", backbone=<the network>" if ":" in (description.get("backbone") or "") else ""
    print(f"{folder}: {size:.1f} MB; bam.export.from_pretrained({str(folder)!r}{own}) gives the network back")


def _export(net: Any, out: Path, size: Any, dynamic: str, precision: str, calibration: Any, latency: bool) -> None:
    """Write the file for other runtimes."""
    from bam.export import export_model, format_latency, measure_latency

    axes = [axis for axis in dynamic.split(",") if axis]
    exported = export_model(net, out, size, axes, precision=precision, calibration=calibration)
    print(exported)
    if latency:
        print("milliseconds a pass, one image:", format_latency(measure_latency(net, exported)), sep="\n")
