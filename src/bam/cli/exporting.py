"""The verb export."""

from pathlib import Path
from typing import Any, Literal

from bam.attention.spec import AttentionSpec
from bam.recipes import Recipe


def export(
    out: Path,
    run: Path | None = None,
    model: str | None = None,
    attention: AttentionSpec = AttentionSpec(),
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
        attention: module to put into the model, with its options and sites in brackets:
            'bam(layout=released, sites=every block)'; or "none".
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
        net, about = _network(model, attention, weights, num_classes, image)
    elif attention != AttentionSpec() or weights or num_classes:
        raise ValueError("--attention, its options, --weights and --num-classes are for --model: a run has its own")
    else:
        from bam.tasks import task_of
        from bam.training import trained_model, training_images

        net, record = trained_model(Path(str(run)))
        task = task_of(Recipe.from_dict(record.recipe))
        if task.not_exported:
            raise ValueError(f"{run} is a run of {task.name}: {task.not_exported}")
        about = _about(record)
        calibration = training_images(record, data_root) if precision == "int8" and out.suffix else None
    if not out.suffix:
        _save(net, out, precision, about, image)
    else:
        _export(net, out, image or about.get("image_size"), dynamic, precision, calibration, latency)


def _network(
    model: str,
    attention: AttentionSpec,
    weights: Path | None,
    num_classes: int | None,
    image: int | None,
) -> tuple[Any, dict[str, Any]]:
    """The network that the flags name, and what is known about it beside its weights."""
    from bam.dryrun import image_shape
    from bam.export import IMAGENET, config_of, from_pretrained
    from bam.models import build
    from bam.surgery import attach

    if Path(model, "config.json").is_file():
        if attention != AttentionSpec() or weights or num_classes:
            raise ValueError(f"{model} is a saved network, which has its own attention, weights and classes")
        net = from_pretrained(model)
        return net, {field: getattr(config_of(net), field) for field in ("image_size", "resize")}
    if attention.is_none and attention != AttentionSpec():
        raise ValueError("--attention-options, --sites and --identity are for an attention: give --attention, e.g. bam")
    net = attach(build(model, num_classes), attention, image=image)
    if weights is not None:
        from bam.tensors import load_tensors, read_safetensors

        load_tensors(net, read_safetensors(weights)[0], weights, model)
    about = {"backbone": model, "num_classes": num_classes, "mean": IMAGENET["mean"], "std": IMAGENET["std"]}
    side = image_shape(net)[-1]
    crop = IMAGENET["resize"] / IMAGENET["image_size"][0] if side > 64 else 1
    return net, about | {"image_size": (side, side), "resize": round(side * crop)}


def _about(record: Any) -> dict[str, Any]:
    """What a run's record says about its network, beside the weights."""
    from bam.data.folder.options import FolderOptions

    about = {"backbone": record.recipe["model"], "image_size": record.image_size, "num_classes": record.num_classes}
    if record.recipe["data"].startswith("folder:"):
        about["resize"] = FolderOptions.read(record.recipe["data_options"]).shorter_side
    return about | {"classes": record.classes or None} | record.normalization


def _save(net: Any, folder: Path, precision: str, about: dict[str, Any], image: int | None) -> None:
    """Write the folder that gives the network back."""
    from bam.export import save_pretrained

    if precision != "fp32":
        raise ValueError(f"{folder} has no suffix: a folder holds the network as it is, --precision is for .onnx files")
    if "backbone" in about and "mean" not in about:
        advice = "bam.export.save_pretrained(bam.training.trained_model(run)[0], folder, mean=..., std=...) takes it"
        raise ValueError(f"the run is of an earlier version of bam, which did not record its normalisation; {advice}")
    if image and "resize" in about:  # the same share of the image is cropped
        about["resize"] = round(image * about["resize"] / about["image_size"][0])
    save_pretrained(net, folder, **about | ({"image_size": image} if image else {}))
    size = (folder / "model.safetensors").stat().st_size / 1e6
    own = ", backbone=<the network>" if ":" in about.get("backbone", "") else ""
    print(f"{folder}: {size:.1f} MB; bam.export.from_pretrained({str(folder)!r}{own}) gives the network back")


def _export(net: Any, out: Path, size: Any, dynamic: str, precision: str, calibration: Any, latency: bool) -> None:
    """Write the file for other runtimes."""
    from bam.export import export_model, format_latency, measure_latency

    exported = export_model(net, out, size, [axis for axis in dynamic.split(",") if axis], precision, calibration)
    print(exported)
    if latency:
        print("milliseconds a pass, one image:", format_latency(measure_latency(net, exported)), sep="\n")
