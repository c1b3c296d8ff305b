"""Verbs about networks: sites, cost, export, models, coverage."""

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

    from bam.models import build
    from bam.placement import find_bottlenecks, select_sites
    from bam.surgery import attention_factory

    net = build(model, num_classes)
    found = select_sites(net, sites, image) if sites else find_bottlenecks(net, image, keep=keep)
    print(found.table(partial(attention_factory(attention), **(attention_options or {})), latency=latency))


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
        num_classes: outputs of the network (default: its own; 100 for cifar/ networks).
    """
    from bam.costs import cost, format_count
    from bam.models import build
    from bam.surgery import attach

    net = build(model, num_classes)
    plain = cost(net, image)
    print(f"{model}: {plain}")
    if attention != "none":
        full = cost(attach(net, attention, sites=sites, image=image, **(attention_options or {})), image)
        more = f"+{full.params - plain.params:,} parameters, +{format_count(full.macs - plain.macs)} MACs"
        print(f"{model} + {attention}: {full} ({more})")


def export(
    out: Path,
    run: Path | None = None,
    model: str | None = None,
    attention: str = "none",
    attention_options: dict[str, Any] | None = None,
    weights: Path | None = None,
    num_classes: int | None = None,
    image: int | None = None,
    dynamic: str = "batch,height,width",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    latency: bool = True,
    data_root: Path | None = None,
) -> None:
    """Write a network to a file for other runtimes, checked against the network before it is kept.

    Give either a run (its network and weights) or a model. The file takes batches of normalised images.

    Args:
        out: the file; its suffix is the format: .onnx, .pt2 (torch.export) or .torchscript.
        run: folder of a complete run.
        model: network, see `bam models`.
        attention: module to put at the bottlenecks of the model, or "none".
        attention_options: passed to it, e.g. '{"layout": "released"}'.
        weights: a .safetensors file for the model, its attention included (default: random weights).
        num_classes: outputs of the model (default: its own).
        image: side of the image in pixels to trace at (default: that of the run, or the network's own, or 224).
        dynamic: axes that may differ from call to call, of batch, height and width; "" for none.
        precision: fp32; for .onnx also fp16, or int8, which calibrates on 256 training images of the run.
        latency: time the file beside the network, as it is and compiled.
        data_root: folder of the data that int8 calibrates on (default: $BAM_DATA, or data).
    """
    from bam.export import export_model, format_latency, measure_latency

    if (run is None) == (model is None):
        raise ValueError("give one of --run and --model")
    size: Any = image
    calibration = None
    if model is not None:
        if precision == "int8":
            raise ValueError("int8 calibrates on training images: give --run, or call bam.export.export_model")
        net = _network(model, attention, attention_options, weights, num_classes, image)
    elif attention != "none" or attention_options or weights or num_classes:
        raise ValueError("--attention, its options, --weights and --num-classes are for --model: a run has its own")
    else:
        from bam.training import trained_model, training_images

        net, record = trained_model(Path(str(run)))
        size = image or record.image_size
        calibration = training_images(record, data_root) if precision == "int8" else None
    exported = export_model(net, out, size, [axis for axis in dynamic.split(",") if axis], precision, calibration)
    print(exported)
    if latency:
        print("milliseconds a pass, one image:", format_latency(measure_latency(net, exported)), sep="\n")


def _network(
    model: str,
    attention: str,
    attention_options: dict[str, Any] | None,
    weights: Path | None,
    num_classes: int | None,
    image: int | None,
) -> Any:
    from bam.models import build
    from bam.surgery import attach

    net = build(model, num_classes)
    if attention != "none":
        attach(net, attention, image=image, **(attention_options or {}))
    elif attention_options:
        raise ValueError("--attention-options are for an attention: give --attention, e.g. bam")
    if weights is not None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            net.load_state_dict(load_file(weights))
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{weights} does not fit {model}: {reason}") from None
    return net


def models() -> None:
    """List the networks that every verb takes."""
    from torchvision.models import list_models

    from bam.models import MODELS

    print(*MODELS, sep="\n")
    print(f"and torchvision's {len(list_models())} by their names (resnet50, ...), timm's as timm/<name>,")
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
