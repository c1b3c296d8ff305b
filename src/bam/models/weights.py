"""Read pretrained weights from files, or from the published weights of torchvision and timm."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bam.tensors import read_pickle, read_safetensors

_WEIGHTS = "model.safetensors"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".tar", ".bin", ".ckpt")


def read_weights(name: str, pretrained: str) -> tuple[str, dict[str, Tensor]]:
    """Read the weights `pretrained` for the network `name`; returns their source (for messages) and tensors by name.

    See `bam.models.load_pretrained` for the arguments and errors.
    """
    if _is_path(pretrained):
        source, content = _from_path(_path(pretrained))
    elif name.startswith("timm/"):
        source, content = _from_timm(name.removeprefix("timm/"), pretrained)
    else:
        source, content = _from_torchvision(name, pretrained)
    return source, _state_dict(content, source)


class Normalization(NamedTuple):
    """The mean and deviation that normalise images, per channel on the scale 0 to 1."""

    mean: list[float]
    std: list[float]
    source: str = ""  #: the origin of a guess; empty if the weights state the values


def normalization(name: str, pretrained: str) -> Normalization | None:
    """The normalisation that these weights expect; None if unknown.

    It comes from torchvision or timm, from a run's record.json or from a saved network's config.json. For weights from
    any other file, it is a guess: that of the library's own weights for this network.
    """
    if _is_path(pretrained):
        path = _path(pretrained)
        folder = path if path.is_dir() else path.parent
        for file, entry in (("record.json", "normalization"), ("config.json", None)):
            if (folder / file).is_file() and (path.is_dir() or path.name == _WEIGHTS):
                content = json.loads((folder / file).read_text(encoding="utf-8"))
                content = content.get(entry, {}) if entry else content
                return Normalization(content["mean"], content["std"]) if content.get("mean") else None
        known = _library_normalization(name, "default")
        return known and known._replace(source=f"{_joined(known.mean)} and {_joined(known.std)}, as for {name}'s own")
    return _library_normalization(name, pretrained)


def imagenet_classes(name: str) -> list[str] | None:
    """The names of ImageNet's 1000 classes, in the order of torchvision and timm; None for other networks."""
    from torchvision.models import ResNet18_Weights, list_models

    known = name.startswith("timm/") or name in list_models()
    return list(ResNet18_Weights.DEFAULT.meta["categories"]) if known else None


def _library_normalization(name: str, pretrained: str) -> Normalization | None:
    """The normalisation that torchvision or timm gives for the weights `pretrained`; None for other networks."""
    if name.startswith("timm/"):
        import timm

        base, _, name_tag = name.removeprefix("timm/").partition(".")
        tag = name_tag if pretrained.lower() == "default" else pretrained
        config = timm.get_pretrained_cfg(f"{base}.{tag}".rstrip("."))
        return Normalization(list(config.mean), list(config.std)) if config else None
    from torchvision.models import get_model_weights, list_models

    if name not in list_models():
        return None
    transform = get_model_weights(name)[_torchvision_tag(pretrained)].transforms()
    if not hasattr(transform, "mean"):  # detectors normalise images themselves
        return None
    return Normalization(list(transform.mean), list(transform.std))


def _joined(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _is_path(pretrained: str) -> bool:
    path = _path(pretrained)
    return path.exists() or pretrained.endswith(_SUFFIXES) or len(path.parts) > 1


def _path(pretrained: str) -> Path:
    return Path(os.path.expanduser(pretrained))


def _from_path(path: Path) -> tuple[str, Any]:
    if path.is_dir():
        folder, path = path, path / _WEIGHTS
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no complete run: {path.name} is missing")
    return str(path), read_safetensors(path)[0] if path.suffix == ".safetensors" else read_pickle(path)


def _from_torchvision(name: str, tag: str) -> tuple[str, Any]:
    from torchvision.models import get_model_weights, list_models

    if name not in list_models():
        problem = f"there are no weights {tag!r} for {name}: tags are for torchvision's and timm's networks"
        raise ValueError(f"{problem}; give the path of a file, e.g. weights/{tag}.safetensors")
    weights, tag = get_model_weights(name).__members__, _torchvision_tag(tag)
    if tag not in weights:
        raise ValueError(_unknown_tag("torchvision", name, tag, list(weights)))
    source = f"torchvision's {name} {weights[tag].name}"
    options = {"progress": True, "check_hash": True, "weights_only": True}
    return source, _download(source, lambda: weights[tag].get_state_dict(**options))


def _torchvision_tag(tag: str) -> str:
    return "DEFAULT" if tag.lower() == "default" else tag  # "default" is timm's spelling


def _from_timm(name: str, tag: str) -> tuple[str, Any]:
    import timm

    name, _, name_tag = name.partition(".")
    published = [known.partition(".")[2] for known in timm.list_pretrained(name)]
    config = timm.get_pretrained_cfg(name)
    actual = (name_tag or (config.tag if config else "") or "") if tag.lower() == "default" else tag
    if actual not in published:
        raise ValueError(_unknown_tag("timm", name, actual or tag, ["default", *published] if published else []))
    full_name = f"{name}.{actual}".rstrip(".")
    source = f"timm's {full_name}"
    with torch.random.fork_rng(devices=[]):  # timm draws random weights first
        return source, _download(source, lambda: timm.create_model(full_name, True).state_dict())


def _unknown_tag(library: str, name: str, tag: str, known: list[str]) -> str:
    problem = f"{library} has no weights {tag!r} for {name}" if known else f"{library} has no weights for {name}"
    return f"{problem}; known tags: {', '.join(known)}" if known else f"{problem}: give the path of a file"


def _download(source: str, download: Callable[[], Any]) -> Any:
    try:
        return download()
    except Exception as error:  # huggingface_hub passes on any error of its HTTP library, torch any error of a bad file
        raise OSError(
            f"{source} could not be downloaded or read ({_first_line(error)}); without a connection, "
            "download the file elsewhere and give its path"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def _state_dict(content: Any, source: str) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    has_names = isinstance(content, Mapping) and all(isinstance(key, str) for key in content)
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)} if has_names else {}
    if not tensors:
        raise ValueError(
            f"{source} holds no state dict: expected tensors by name, alone or as "
            '"state_dict" or "model" of a checkpoint'
        )
    return tensors
