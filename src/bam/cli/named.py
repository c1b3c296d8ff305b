"""Networks given by name rather than by a run's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bam.attention.spec import AttentionSpec

if TYPE_CHECKING:
    from torch import nn

    from bam.export import NetworkDescription


@dataclass(frozen=True)
class NamedNetwork:
    """The parts of a network given by name: attention, weights, classes.

    Attributes:
        attention: attention module for a network given by name, with options and sites in brackets: 'bam(sites=layer2)'
            (default: the adapter's).
        pretrained: weights of the network without attention: a file, or a tag of torchvision or timm such as DEFAULT
            (default: random weights).
        adapter: file written by bam.save_attention, with the attention, its sites and its weights.
        weights: .safetensors file for the whole network including its attention, instead of --pretrained and
            --adapter.
        num_classes: number of outputs (default: the network's own).
        class_names: file with one class name per line, or folder with one subfolder per class (default: ImageNet's
            names for torchvision and timm networks with its 1000 classes, else numbers).
    """

    attention: AttentionSpec = AttentionSpec()
    pretrained: str | None = None
    adapter: Path | None = None
    weights: Path | None = None
    num_classes: int | None = None
    class_names: Path | None = None


NOTHING_NAMED = NamedNetwork()


def build_named(model: str, options: NamedNetwork, image: int | None = None) -> "tuple[nn.Module, NetworkDescription]":
    """The network called `model` in eval mode, and its description.

    Raises:
        ValueError: for an unknown network, or files that do not match it or each other.
    """
    from bam.export.description import describe_named
    from bam.models import build
    from bam.models.weights import imagenet_classes
    from bam.surgery import attach, load_attention
    from bam.tasks import task_knowing
    from bam.tensors import load_tensors, read_safetensors

    task = task_knowing(model)
    if task.not_named:
        raise ValueError(f"{model} is a {task.name} network: {task.not_named}")
    check_named(options.attention)
    if options.weights and (options.pretrained or options.adapter):
        raise ValueError("--weights holds the whole network: drop --pretrained and --adapter, or drop --weights")
    network = build(model, options.num_classes)
    count = options.num_classes
    if count is None and (options.pretrained or options.class_names or imagenet_classes(model)):
        count = _num_outputs(network, image)
    if options.pretrained and count is not None:
        _load_backbone(network, model, options, count)
    attach(network, options.attention, image=image)
    if options.adapter:
        load_attention(network, options.adapter, image=image)
    if options.weights:
        load_tensors(network, read_safetensors(options.weights)[0], options.weights, model)
    source = options.pretrained or (str(options.weights) if options.weights else None)
    description = describe_named(network, model, options.num_classes, source)
    description["classes"] = _class_names(model, count, options)
    return network.eval(), description


def check_named(attention: AttentionSpec) -> None:
    """Raise ValueError if options of the attention are given without its name."""
    if attention.is_none and attention != AttentionSpec():
        raise ValueError("--attention-options, --sites and --identity need --attention, e.g. --attention bam")


def _load_backbone(network: "nn.Module", model: str, options: NamedNetwork, count: int) -> None:
    """Load the pretrained weights, which must include the classifier."""
    import torch

    from bam.models.pretrained import classifier_names, load_pretrained

    assert options.pretrained is not None
    heads = [next(network.get_submodule(name).parameters()) for name in classifier_names(network, count)]
    before = [head.clone() for head in heads]
    load_pretrained(network, model, options.pretrained, count)
    if any(torch.equal(old, new) for old, new in zip(before, heads, strict=True)):
        raise ValueError(
            f"{options.pretrained} has no classifier with {count} classes for {model}: give the file's number of "
            "classes with --num-classes"
        )


def _num_outputs(network: "nn.Module", image: int | None) -> int:
    """The number of class logits a network returns; ValueError if it returns something else."""
    from bam.dryrun import dry_run
    from bam.tasks.classification.network import class_logits

    return class_logits(dry_run(network, image)).shape[1]


def _class_names(model: str, count: int | None, options: NamedNetwork) -> list[str] | None:
    """The class names, if known."""
    from bam.models.weights import imagenet_classes

    if count is None:
        return None
    if options.class_names is None:
        names = imagenet_classes(model) if options.num_classes is None else None
        return names if names and len(names) == count else None
    path = options.class_names
    if path.is_dir():
        names = sorted(folder.name for folder in path.iterdir() if folder.is_dir() and folder.name[0] != ".")
    else:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(names) != count:
        raise ValueError(f"{path} has {len(names)} class names, but {model} has {count} outputs")
    return names


def untrained(options: NamedNetwork) -> list[str]:
    """Notes for the user about weights that are random."""
    if options.weights:
        return []
    has_attention = options.adapter or not options.attention.is_none
    where = " around the attention" if has_attention else ""
    notes = [] if options.pretrained else [f"the network{where} has random weights: give --pretrained"]
    if has_attention and not options.adapter:
        notes.append("the attention is untrained, so its maps mean nothing yet: give --adapter or --weights")
    return notes
