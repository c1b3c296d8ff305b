"""The verb export."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bam.attention.spec import AttentionSpec
from bam.recipes import Recipe

if TYPE_CHECKING:
    from bam.export import NetworkDescription


@dataclass(frozen=True)
class NamedNetwork:
    """A network that is no run's.

    Attributes:
        model: network, see `bam models`, or a folder that bam export wrote.
        weights: a .safetensors file for the model, its attention included (default: random weights).
        num_classes: outputs of the model (default: its own).
    """

    model: str | None = None
    weights: Path | None = None
    num_classes: int | None = None


@dataclass(frozen=True)
class FileOptions:
    """How a file is written.

    Attributes:
        image: side of the image in pixels to trace at (default: that of the run, or the network's own, or 224).
        dynamic: axes of a file that may differ from call to call, of batch, height and width; "" for none.
        precision: fp32; for .onnx also fp16, or int8, which calibrates on 256 training images of the run.
        latency: time the file beside the network, as it is and compiled.
        data_root: folder of the data that int8 calibrates on (default: $BAM_DATA, or data).
    """

    image: int | None = None
    dynamic: str = "batch,height,width"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    latency: bool = True
    data_root: Path | None = None


def export(
    out: Path,
    run: Path | None = None,
    network: NamedNetwork = NamedNetwork(),
    attention: AttentionSpec = AttentionSpec(),
    options: FileOptions = FileOptions(),
) -> None:
    """Write a network to a file for other runtimes, or to a folder that gives it back, checked before it is kept.

    Give either a run (its network and weights) or a model. The file takes batches of normalised images.

    Args:
        out: a file, whose suffix is the format: .onnx, .pt2 (torch.export) or .torchscript; without a suffix a folder
            of weights, classes and normalisation (ImageNet's for a --model) for bam.export.from_pretrained or --model.
        run: folder of a complete run.
        attention: module to put into the model, with its options and sites in brackets:
            'bam(layout=released, sites=every block)'; or "none".
    """
    if (run is None) == (network.model is None):
        raise ValueError("give one of --run and --model")
    calibration = None
    if run is None:
        if options.precision == "int8":
            raise ValueError("int8 calibrates on training images: give --run, or call bam.export.export_model")
        net, description = _named(network, attention, options.image)
    elif attention != AttentionSpec() or network != NamedNetwork():
        raise ValueError("--attention, its options, --weights and --num-classes are for --model: a run has its own")
    else:
        from bam.training import training_images

        net, description, record = _trained(run, out)
        if options.precision == "int8" and out.suffix:
            calibration = training_images(record, options.data_root)
    if out.suffix:
        _export(net, out, options, options.image or description.get("image_size"), calibration)
    else:
        _save(net, out, options, description)


def _trained(run: Path, out: Path) -> tuple[Any, "NetworkDescription", Any]:
    """The network of a run, its description (for a file the image size is enough) and the record."""
    from bam.export.description import describe_run
    from bam.tasks import task_of
    from bam.training import trained_model

    net, record = trained_model(run)
    task = task_of(Recipe.from_dict(record.recipe))
    if task.not_exported:
        raise ValueError(f"{run} is a run of {task.name}: {task.not_exported}")
    return net, {"image_size": record.image_size} if out.suffix else describe_run(record), record


def _named(network: NamedNetwork, attention: AttentionSpec, image: int | None) -> tuple[Any, "NetworkDescription"]:
    """The network that the flags name, and what is known about it beside its weights."""
    from bam.export import from_pretrained
    from bam.export.description import describe_named, describe_saved
    from bam.models import build
    from bam.surgery import attach
    from bam.tensors import load_tensors, read_safetensors

    assert network.model is not None
    model, weights = network.model, network.weights
    if Path(model, "config.json").is_file():
        if attention != AttentionSpec() or network != NamedNetwork(model):
            raise ValueError(f"{model} is a saved network, which has its own attention, weights and classes")
        net = from_pretrained(model)
        return net, describe_saved(net)
    check_named(attention)
    net = attach(build(model, network.num_classes), attention, image=image)
    if weights is not None:
        load_tensors(net, read_safetensors(weights)[0], weights, model)
    return net, describe_named(net, model, network.num_classes)


def check_named(attention: AttentionSpec) -> None:
    """Refuse parts of an attention without its name."""
    if attention.is_none and attention != AttentionSpec():
        raise ValueError("--attention-options, --sites and --identity are for an attention: give --attention, e.g. bam")


def _save(net: Any, folder: Path, options: FileOptions, description: "NetworkDescription") -> None:
    """Write the folder that gives the network back."""
    from bam.export import save_pretrained
    from bam.export.description import at_image_size

    if options.precision != "fp32":
        raise ValueError(f"{folder} has no suffix: a folder holds the network as it is, --precision is for .onnx files")
    if options.image:
        description = at_image_size(description, options.image)
    save_pretrained(net, folder, **description)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    own = ", backbone=<the network>" if ":" in (description.get("backbone") or "") else ""
    print(f"{folder}: {size:.1f} MB; bam.export.from_pretrained({str(folder)!r}{own}) gives the network back")


def _export(net: Any, out: Path, options: FileOptions, size: Any, calibration: Any) -> None:
    """Write the file for other runtimes."""
    from bam.export import export_model, format_latency, measure_latency

    axes = [axis for axis in options.dynamic.split(",") if axis]
    exported = export_model(net, out, size, axes, precision=options.precision, calibration=calibration)
    print(exported)
    if options.latency:
        print("milliseconds per pass, one image:", format_latency(measure_latency(net, exported)), sep="\n")
