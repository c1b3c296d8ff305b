"""Verbs about networks: sites, cost, export, models, coverage, paper."""

from pathlib import Path
from typing import Any, Literal


def sites(
    model: str,
    image: int | None = None,
    sites: list[str] | None = None,
    attention: str = "bam",
    attention_options: dict[str, Any] | None = None,
    keep: int = 3,
    latency: bool = True,
    num_classes: int | None = None,
) -> None:
    """Show where attention would go in a network and what it would cost there.

    Args:
        model: network, see `bam models`.
        image: side of the image in pixels (default: the network's own, or 224).
        sites: other places than the bottlenecks: names (layer1), inputs ("before layer2"), patterns (layer?.*),
            positions (--sites=-1,0), strides ("stride 8") or "every block" (each residual branch).
        attention: module to price.
        attention_options: passed to it, e.g. '{"reduction": 8}'.
        keep: how many bottlenecks to keep, counted from the deepest.
        latency: measure the forward pass of each module, too.
        num_classes: outputs of the network (default: its own).
    """
    from functools import partial

    from bam.detection.detectors import DETECTORS
    from bam.models import build
    from bam.placement import find_bottlenecks, select_sites
    from bam.surgery import attention_factory

    if model in DETECTORS:
        net, sites = _where_attention_goes(model, sites)
    else:
        net = build(model, num_classes)
    found = select_sites(net, sites, image) if sites else find_bottlenecks(net, image, keep=keep)
    print(found.table(partial(attention_factory(attention), **(attention_options or {})), latency=latency))


def _where_attention_goes(model: str, sites: list[str] | None) -> tuple[Any, list[str] | None]:
    """The part of a detector where attention is looked for, and the names there, if not at its bottlenecks."""
    from bam.detection.build import build_detector
    from bam.detection.detectors import DETECTORS
    from bam.models import build
    from bam.recipes import Recipe

    known = DETECTORS[model]
    wanted = sites or list(known.sites or ())
    if any("backbone." in site for site in wanted):
        return build_detector(Recipe(task="detection", model=model), 20), wanted
    print(f"{model} stands on {known.backbone}, and attention sits there:")
    return build(known.backbone), sites


def cost(
    model: str,
    attention: str = "none",
    attention_options: dict[str, Any] | None = None,
    sites: list[str] | None = None,
    image: int | None = None,
    num_classes: int | None = None,
) -> None:
    """Count a network's parameters and multiply-adds (convolutions and linear layers), without and with attention.

    Args:
        model: network, see `bam models`.
        attention: module to put into the network, or "none".
        attention_options: passed to it, e.g. '{"layout": "released"}'.
        sites: where to put it, see `bam sites` (default: the bottlenecks), e.g. "every block".
        image: side of the image in pixels (default: the network's own, or 224).
        num_classes: outputs of the network (default: its own; 100 for cifar/ networks, 20 for detectors, whose images
            have the size to which they resize them).
    """
    from bam.costs import cost, format_count
    from bam.detection.detectors import DETECTORS
    from bam.models import build
    from bam.surgery import attach

    if attention == "none" and (attention_options or sites):
        raise ValueError("--attention-options and --sites are for an attention: give --attention, e.g. bam")
    if model in DETECTORS:
        _cost_of_detector(model, attention, attention_options or {}, sites, num_classes or 20)
        return
    net = build(model, num_classes)
    plain = cost(net, image)
    print(f"{model}: {plain}")
    if attention != "none":
        full = cost(attach(net, attention, sites=sites, image=image, **(attention_options or {})), image)
        more = f"+{full.params - plain.params:,} parameters, +{format_count(full.macs - plain.macs)} MACs"
        print(f"{model} + {attention}: {full} ({more})")


def _cost_of_detector(
    model: str, attention: str, options: dict[str, Any], sites: list[str] | None, num_classes: int
) -> None:
    from bam.detection.build import build_detector
    from bam.detection.cost import detector_cost, input_size
    from bam.recipes import Recipe

    recipe = Recipe(task="detection", model=model)
    net = build_detector(recipe, num_classes)
    print("{}, {} classes, {} x {}: {}".format(model, num_classes, *input_size(net), detector_cost(net)))
    if attention != "none":
        attended = recipe.replace(attention=attention, attention_options=options, sites=sites)
        print(f"{model} + {attention}: {detector_cost(build_detector(attended, num_classes))}")


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
        net, about = _network(model, attention, attention_options, sites, weights, num_classes, image)
    elif attention != "none" or attention_options or sites or weights or num_classes:
        raise ValueError("--attention, its options, --weights and --num-classes are for --model: a run has its own")
    else:
        from bam.training import trained_model, training_images

        net, record = trained_model(Path(str(run)))
        if record.recipe.get("task") == "detection":
            raise ValueError(f"{run} is a run of detection, and bam export writes classifiers; to use it: bam predict")
        about = _about(record)
        calibration = training_images(record, data_root) if precision == "int8" and out.suffix else None
    if not out.suffix:
        _save(net, out, precision, about, image)
    else:
        _export(net, out, image or about.get("image_size"), dynamic, precision, calibration, latency)


def _network(
    model: str,
    attention: str,
    attention_options: dict[str, Any] | None,
    sites: list[str] | None,
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
        if attention != "none" or attention_options or sites or weights or num_classes:
            raise ValueError(f"{model} is a saved network, which has its own attention, weights and classes")
        net = from_pretrained(model)
        return net, {field: getattr(config_of(net), field) for field in ("image_size", "resize")}
    net = build(model, num_classes)
    if attention != "none":
        attach(net, attention, sites=sites, image=image, **(attention_options or {}))
    elif attention_options or sites:
        raise ValueError("--attention-options and --sites are for an attention: give --attention, e.g. bam")
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


def models() -> None:
    """List the networks that every verb takes: what they cost, and which convolution of a bottleneck block strides."""
    import torch
    from torchvision.models import list_models

    from bam.costs import cost, format_count
    from bam.detection.detectors import DETECTORS
    from bam.models import MODELS, build
    from bam.models.residual import strided_kernel

    width = max(map(len, MODELS))
    print(f"{'network':{width}}  parameters     MACs  strides  paper")
    for name, builder in MODELS.items():
        with torch.device("meta"):
            net = build(name)
        counted = cost(net)
        cells = f"{counted.params:>10,}  {format_count(counted.macs):>7}  {strided_kernel(net):7}"
        print(f"{name:{width}}  {cells}  {getattr(builder, 'source', '')}".rstrip(), flush=True)
    print("\ndetector, on the network")
    for name, detector in DETECTORS.items():
        print(f"{name:35}  {detector.backbone:20}  {detector.source}")
    print(f"\nand torchvision's {len(list_models())} by their names (resnet50, ...), timm's as timm/<name>,")
    print("and your own as <module>:<function>, where the function returns the network")


def coverage(
    library: Literal["both", "torchvision", "timm"] = "both",
    all: bool = False,
    models: list[str] | None = None,
    out: Path = Path("coverage"),
    jobs: int = 2,
    timeout: int = 900,
) -> None:
    """Try attention on every network of torchvision and timm, and write a page of what came of it.

    The same command goes on where an interrupted survey stopped. docs/coverage.md is such a page.

    Args:
        library: both, torchvision or timm.
        all: every network of timm, not one of each family.
        models: only these (timm/<name>), again if they were tried already.
        out: folder for coverage.csv and coverage.md.
        jobs: how many processes.
        timeout: seconds after which a network is given up.
    """
    from bam.coverage import candidates, survey, write_page

    wanted = candidates(library, all or models is not None)
    unknown = sorted(set(models or []) - {one.name for one in wanted})
    if unknown:
        raise ValueError(f"neither torchvision nor timm has {', '.join(unknown)}; timm's are timm/<name>")
    if models:
        wanted = [one for one in wanted if one.name in models]
    survey(wanted, out / "coverage.csv", jobs=jobs, timeout=timeout, again=bool(models))
    write_page(out / "coverage.md", out / "coverage.csv", f"bam coverage --out {out}")
    print(f"page: {out / 'coverage.md'}")


def paper(table: str = "", out: Path | None = None) -> None:
    """Show the paper's tables beside what this package counts: parameters and multiply-adds of every row.

    Args:
        table: only those whose title contains this, e.g. SE, ablation, ImageNet (default: all).
        out: a Markdown page to put all of them into, between its marks (docs/reproducing.md).
    """
    from bam.paper import TABLES, markdown, write_tables

    if out is not None:
        write_tables(out)
        return
    titles = [title for title in TABLES if table.lower() in title.lower()]
    if not titles:
        raise ValueError(f"no table has {table!r} in its title; there are: {'; '.join(TABLES)}")
    for title in titles:
        print(markdown([title]), flush=True)
