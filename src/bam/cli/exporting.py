"""The verb export: write a network for other runtimes, or save it as a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bam.cli.named import NamedNetwork, build_named
from bam.recipes import Recipe

if TYPE_CHECKING:
    from bam.export import NetworkDescription


@dataclass(frozen=True)
class NamedModel(NamedNetwork):
    """A network given by name instead of a run.

    Attributes:
        model: network, see `bam models`, or a folder written by bam export.
    """

    model: str | None = None


@dataclass(frozen=True)
class FileOptions:
    """Options of the written file.

    Attributes:
        image: image size in pixels for tracing (default: the run's or the network's own size, else 224).
        dynamic: axes whose size may vary from call to call: any of batch, height and width; "" for none.
        precision: fp32; for .onnx also fp16 or int8, which calibrates on 256 training images of the run.
        latency: measure the latency of the file, and of the network in eager and compiled mode.
        data_root: folder of the calibration data for int8 (default: $BAM_DATA, or data).
    """

    image: int | None = None
    dynamic: str = "batch,height,width"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    latency: bool = True
    data_root: Path | None = None


def export(
    out: Path,
    run: Path | None = None,
    network: NamedModel = NamedModel(),
    options: FileOptions = FileOptions(),
) -> None:
    """Write a network to a file for other runtimes, or to a folder to load it from, and check the result.

    Give either a run (its network and weights) or a model. The file takes batches of normalised images.

    Args:
        out: file whose suffix chooses the format: .onnx, .pt2 (torch.export) or .torchscript (traced, not scripted).
            Without a suffix: folder with weights, classes and normalisation, for bam.export.from_pretrained or --model
            (with ImageNet's normalisation if the weights of a --model do not record their own).
        run: folder of a complete run.
    """
    if (run is None) == (network.model is None):
        raise ValueError("give either --run or --model")
    calibration = None
    if run is None:
        if options.precision == "int8":
            raise ValueError("int8 calibrates on training images: give --run, or call bam.export.export_model")
        net, description = _named(network, options.image)
    elif network != NamedModel():
        raise ValueError(
            "a run has its own attention, weights and classes: flags such as --attention work only with --model"
        )
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
    """A run's network, its description (for a file, only the image size) and its record."""
    from bam.export.description import describe_run
    from bam.tasks import task_of
    from bam.training import trained_model

    net, record = trained_model(run)
    task = task_of(Recipe.from_dict(record.recipe))
    if task.not_exported:
        raise ValueError(f"{run} is a {task.name} run: {task.not_exported}")
    return net, {"image_size": record.image_size} if out.suffix else describe_run(record), record


def _named(network: NamedModel, image: int | None) -> tuple[Any, "NetworkDescription"]:
    """The network named by the flags, and its description."""
    from bam.export import from_pretrained
    from bam.export.description import describe_saved

    assert network.model is not None
    model = network.model
    if not Path(model, "config.json").is_file():
        return build_named(model, network, image)
    if network != NamedModel(model=model):
        raise ValueError(f"{model} is a saved network with its own attention, weights and classes: drop those flags")
    net = from_pretrained(model)
    return net, describe_saved(net)


def _save(net: Any, folder: Path, options: FileOptions, description: "NetworkDescription") -> None:
    """Save the network as a folder."""
    from bam.export import save_pretrained
    from bam.export.description import at_image_size

    if options.precision != "fp32":
        raise ValueError(f"{folder} has no suffix, and a folder keeps fp32 weights: --precision needs an .onnx file")
    if options.image:
        description = at_image_size(description, options.image)
    save_pretrained(net, folder, **description)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    backbone = ", backbone=<the network>" if ":" in (description.get("backbone") or "") else ""
    print(f"{folder}: {size:.1f} MB; load the network with bam.export.from_pretrained({str(folder)!r}{backbone})")


def _export(net: Any, out: Path, options: FileOptions, size: Any, calibration: Any) -> None:
    """Write the file for other runtimes."""
    from bam.export import export_model, format_latency, measure_latency

    axes = [axis for axis in options.dynamic.split(",") if axis]
    exported = export_model(net, out, size, axes, precision=options.precision, calibration=calibration)
    print(exported)
    if options.latency:
        print("milliseconds per forward pass, one image:", format_latency(measure_latency(net, exported)), sep="\n")
