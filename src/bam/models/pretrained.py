"""Pretrained weights for a plain network: torchvision's and timm's by tag, anybody's from a file."""

import copy
import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from bam.models.weights import read_weights
from bam.tensors import check_fit, is_like

#: Names in torchvision's published files that its networks have no longer.
_RENAMED: dict[str, tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = {
    "DenseNet": (re.compile(r"\.(norm|relu|conv)\.([12])\."), r".\1\2."),
    "VisionTransformer": (re.compile(r"\.mlp\.linear_([12])\."), lambda found: f".mlp.{3 * (int(found[1]) - 1)}."),
}


def load_pretrained(model: nn.Module, name: str, pretrained: str, num_classes: int) -> nn.Module:
    """Put pretrained weights into a plain network that `build(name, num_classes)` made; in place, returns `model`.

    Everything but the classifier must come from the weights. A classifier that is not of the same shape there, or that
    they lack, keeps its random weights; so do the auxiliary classifiers of GoogLeNet, Inception and timm's networks.

    Args:
        model: the network.
        name: what `build` was given; tags are looked up by it.
        pretrained: a file (.safetensors, or what torch.save wrote: a state dict, or a checkpoint that holds one as
            "state_dict" or "model"), the folder of a complete run, a tag of torchvision's weights for a network of its
            ("DEFAULT", "IMAGENET1K_V2"), or one of timm's ("default", "a1_in1k") for timm/<name>. What exists, ends
            like a file of weights or contains a path separator is a path. Nothing in a file is executed.
        num_classes: outputs of the network.

    Raises:
        ValueError: if the weights do not fit, are damaged or hold attention, or for an unknown tag; `model` is then
            unchanged.
        FileNotFoundError: if there is no such file, or no complete run in the folder.
        OSError: if weights could not be downloaded.
        ImportError: for a .safetensors file without safetensors.
    """
    own = model.state_dict()
    source, values = read_weights(name, pretrained)
    values = current_names(values, model, own)
    for head in classifier_names(model, num_classes):
        entries = [key for key in own if key.startswith(f"{head}.")]
        if not all(key in values and is_like(values[key], own[key]) for key in entries):
            values = {key: value for key, value in values.items() if not key.startswith(f"{head}.")}
            values.update((key, own[key]) for key in entries)
    try:
        check_fit(own, values, source, name)
    except ValueError as error:
        raise ValueError(f"{error}{_attention_hint(model, [key for key in values if key not in own])}") from None
    complete = copy.copy(own)  # with its versions, which say that the names are the current ones
    complete.update(values)
    model.load_state_dict(complete)
    return model


def classifier_name(model: nn.Module, num_classes: int) -> str:
    """The name of the classifier: the last linear layer or 1x1 convolution with `num_classes` outputs.

    Raises:
        ValueError: if there is none.
    """
    names = [name for name, module in model.named_modules() if name and _gives(module, num_classes)]
    if not names:
        what = f"{type(model).__name__} has no classifier for {num_classes} classes"
        raise ValueError(f"{what}: no linear layer or 1x1 convolution has that many outputs")
    return names[-1]


def _gives(module: nn.Module, outputs: int) -> bool:
    if isinstance(module, nn.Linear):
        return module.out_features == outputs
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.out_channels == outputs


def classifier_names(model: nn.Module, num_classes: int) -> list[str]:
    """The classifier and what else classifies: torchvision's auxiliary heads, those that timm tells of."""
    names = {name for name, module in model.named_modules() if name and _gives(module, num_classes)}
    heads = {name for name in names if name.lower().startswith("aux")}
    config = getattr(model, "pretrained_cfg", None)
    told = config.get("classifier") if isinstance(config, dict) else None
    heads |= names & set([told] if isinstance(told, str) else told or [])
    return sorted(heads | ({classifier_name(model, num_classes)} if names else set()))


def current_names(values: dict[str, Tensor], model: nn.Module, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names that `model` has, without what torch.compile, DataParallel and old files put there.

    `own` is the model's state dict.
    """
    values = {key.replace("_orig_mod.", ""): value for key, value in values.items()}
    if all(key.startswith("module.") for key in values) and not any(key.startswith("module.") for key in own):
        values = {key.removeprefix("module."): value for key, value in values.items()}
    if type(model).__module__.startswith("torchvision.") and type(model).__name__ in _RENAMED:
        old, new = _RENAMED[type(model).__name__]
        values = {old.sub(new, key): value for key, value in values.items()}
    counters = {key: value for key, value in own.items() if key.endswith(".num_batches_tracked")}
    return counters | values  # normalisation counts batches only since PyTorch 0.4.1


def _attention_hint(model: nn.Module, unexpected: list[str]) -> str:
    modules = dict(model.named_modules())
    sites = dict.fromkeys(key.partition(".attention.")[0] for key in unexpected if ".attention." in key)
    named = ", ".join(site for site in sites if site in modules)
    if not named:
        return ""
    return (
        f". It holds attention at {named}, and these are weights for a plain network: save it again after "
        "bam.detach(model). To use a run's network with its attention: bam export --run RUN --out FOLDER, and "
        "bam.export.from_pretrained(FOLDER); what bam.save_attention has written is for bam.load_attention"
    )
