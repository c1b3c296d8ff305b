"""Pretrained weights for a plain network: from torchvision or timm by tag, or from a file."""

import copy
import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from bam.models.weights import read_weights
from bam.tensors import check_fit, is_like

#: Network class -> outdated names in torchvision's published files, and their replacement.
_RENAMED: dict[str, tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = {
    "DenseNet": (re.compile(r"\.(norm|relu|conv)\.([12])\."), r".\1\2."),
    "VisionTransformer": (re.compile(r"\.mlp\.linear_([12])\."), lambda match: f".mlp.{3 * (int(match[1]) - 1)}."),
}


def load_pretrained(model: nn.Module, name: str, pretrained: str, num_classes: int) -> nn.Module:
    """Load pretrained weights into a plain network from `build(name, num_classes)`, in place; returns `model`.

    The weights must cover everything but the classifier. A classifier that is missing or has another shape in the
    weights keeps its random values; so do the auxiliary classifiers of GoogLeNet, Inception and timm's networks.

    Args:
        model: the network.
        name: the network's name for `build`, used to look up tags.
        pretrained: a file (.safetensors, or one from torch.save: a state dict, or a checkpoint that holds one as
            "state_dict" or "model"), the folder of a complete run, a torchvision tag ("DEFAULT", "IMAGENET1K_V2") for a
            torchvision network, or a timm tag ("default", "a1_in1k") for timm/<name>. An existing path, a name with the
            suffix of a weights file, or one with a path separator is a path. Nothing in a file is executed.
        num_classes: outputs of the network.

    Raises:
        ValueError: if the weights do not fit, are damaged or contain attention, or for an unknown tag; `model` is then
            unchanged.
        FileNotFoundError: if there is no such file, or no complete run in the folder.
        OSError: if weights could not be downloaded.
        ImportError: for a .safetensors file without safetensors.
    """
    state = model.state_dict()
    source, values = read_weights(name, pretrained)
    values = current_names(values, model, state)
    for head in classifier_names(model, num_classes):
        entries = [key for key in state if key.startswith(f"{head}.")]
        if not all(key in values and is_like(values[key], state[key]) for key in entries):
            values = {key: value for key, value in values.items() if not key.startswith(f"{head}.")}
            values.update((key, state[key]) for key in entries)
    try:
        check_fit(state, values, source, name)
    except ValueError as error:
        raise ValueError(f"{error}{_attention_hint(model, [key for key in values if key not in state])}") from None
    complete = copy.copy(state)  # keeps its version metadata, so that modules do not rename the keys again
    complete.update(values)
    model.load_state_dict(complete)
    return model


def classifier_name(model: nn.Module, num_classes: int) -> str:
    """The name of the classifier: the last linear layer or 1x1 convolution with `num_classes` outputs.

    Raises:
        ValueError: if there is no such layer.
    """
    names = [name for name, module in model.named_modules() if name and _has_outputs(module, num_classes)]
    if not names:
        problem = f"{type(model).__name__} has no classifier for {num_classes} classes"
        raise ValueError(f"{problem}: no linear layer or 1x1 convolution has that many outputs")
    return names[-1]


def _has_outputs(module: nn.Module, outputs: int) -> bool:
    if isinstance(module, nn.Linear):
        return module.out_features == outputs
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.out_channels == outputs


def classifier_names(model: nn.Module, num_classes: int) -> list[str]:
    """The names of the classifier and of all other heads: auxiliary ones, and those in timm's configuration."""
    names = {name for name, module in model.named_modules() if name and _has_outputs(module, num_classes)}
    heads = {name for name in names if name.lower().startswith("aux")}
    config = getattr(model, "pretrained_cfg", None)
    timm_heads = config.get("classifier") if isinstance(config, dict) else None
    heads |= names & set([timm_heads] if isinstance(timm_heads, str) else timm_heads or [])
    return sorted(heads | ({classifier_name(model, num_classes)} if names else set()))


def current_names(values: dict[str, Tensor], model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to `model`'s names: drop prefixes of torch.compile and DataParallel, update outdated names.

    `state` is the model's state dict.
    """
    values = {key.replace("_orig_mod.", ""): value for key, value in values.items()}
    if all(key.startswith("module.") for key in values) and not any(key.startswith("module.") for key in state):
        values = {key.removeprefix("module."): value for key, value in values.items()}
    if type(model).__module__.startswith("torchvision.") and type(model).__name__ in _RENAMED:
        old, new = _RENAMED[type(model).__name__]
        values = {old.sub(new, key): value for key, value in values.items()}
    counters = {key: value for key, value in state.items() if key.endswith(".num_batches_tracked")}
    return counters | values  # files from before PyTorch 0.4.1 have no counters


def _attention_hint(model: nn.Module, unexpected: list[str]) -> str:
    modules = dict(model.named_modules())
    candidates = dict.fromkeys(key.partition(".attention.")[0] for key in unexpected if ".attention." in key)
    sites = ", ".join(site for site in candidates if site in modules)
    if not sites:
        return ""
    return (
        f". It contains attention at {sites}, but a plain network is loaded here: save the weights again after "
        "bam.detach(model). To use a run's network with its attention: bam export --run RUN --out FOLDER, then "
        "bam.export.from_pretrained(FOLDER). For a file from bam.save_attention: bam.load_attention"
    )
