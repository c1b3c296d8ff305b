"""Where pretrained weights come from: files, torchvision's and timm's published ones."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bam.tensors import read_pickle, read_safetensors

_WEIGHTS = "model.safetensors"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".tar", ".bin", ".ckpt")


def read_weights(name: str, pretrained: str) -> tuple[str, dict[str, Tensor]]:
    """What `pretrained` means for the network `name`, in words for messages, and its tensors by their names there.

    See `bam.models.load_pretrained`, also for the errors.
    """
    if _is_path(pretrained):
        source, content = _from_path(_path(pretrained))
    elif name.startswith("timm/"):
        source, content = _from_timm(name.removeprefix("timm/"), pretrained)
    else:
        source, content = _from_torchvision(name, pretrained)
    return source, _state_dict(content, source)


def normalization(name: str, pretrained: str) -> tuple[list[float], list[float]] | None:
    """Mean and deviation of each channel (0 to 1) that the images had with which these weights were trained.

    torchvision and timm tell them of their weights, record.json of a run, config.json of a saved network; None where
    nobody does.
    """
    if _is_path(pretrained):
        path = _path(pretrained)
        folder = path if path.is_dir() else path.parent
        for file, entry in (("record.json", "normalization"), ("config.json", None)):
            if (folder / file).is_file() and (path.is_dir() or path.name == _WEIGHTS):
                told = json.loads((folder / file).read_text(encoding="utf-8"))
                told = told.get(entry, {}) if entry else told
                return (told["mean"], told["std"]) if told.get("mean") else None
        return None
    if name.startswith("timm/"):
        import timm

        base, _, named = name.removeprefix("timm/").partition(".")
        tag = named if pretrained.lower() == "default" else pretrained
        config = timm.get_pretrained_cfg(f"{base}.{tag}".rstrip("."))
        return (list(config.mean), list(config.std)) if config else None
    from torchvision.models import get_model_weights

    transform = get_model_weights(name)[_torchvision_tag(pretrained)].transforms()
    return (list(transform.mean), list(transform.std)) if hasattr(transform, "mean") else None  # detectors do it inside


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
        what = f"there are no weights {tag!r} of {name}: tags are for torchvision's and timm's networks"
        raise ValueError(f"{what}; give the path of a file, e.g. weights/{tag}.safetensors")
    weights, tag = get_model_weights(name).__members__, _torchvision_tag(tag)
    if tag not in weights:
        raise ValueError(_unknown_tag("torchvision", name, tag, list(weights)))
    source = f"torchvision's {name} {weights[tag].name}"
    options = {"progress": True, "check_hash": True, "weights_only": True}
    return source, _download(source, lambda: weights[tag].get_state_dict(**options))


def _torchvision_tag(tag: str) -> str:
    return "DEFAULT" if tag.lower() == "default" else tag  # as timm calls it


def _from_timm(name: str, tag: str) -> tuple[str, Any]:
    import timm

    name, _, named = name.partition(".")
    published = [known.partition(".")[2] for known in timm.list_pretrained(name)]
    config = timm.get_pretrained_cfg(name)
    wanted = (named or (config.tag if config else "") or "") if tag.lower() == "default" else tag
    if wanted not in published:
        raise ValueError(_unknown_tag("timm", name, wanted or tag, ["default", *published] if published else []))
    full = f"{name}.{wanted}".rstrip(".")
    with torch.random.fork_rng(devices=[]):  # timm draws random weights first
        return f"timm's {full}", _download(f"timm's {full}", lambda: timm.create_model(full, True).state_dict())


def _unknown_tag(library: str, name: str, tag: str, known: list[str]) -> str:
    what = f"{library} has no weights {tag!r} for {name}" if known else f"{library} has no weights for {name}"
    return f"{what}; known are {', '.join(known)}" if known else f"{what}: give the path of a file"


def _download(source: str, download: Callable[[], Any]) -> Any:
    try:
        return download()
    except Exception as error:  # huggingface_hub lets through what its HTTP library raises, torch what a bad file does
        raise OSError(
            f"{source} could not be downloaded or read ({_line(error)}); without a network, "
            "download the file elsewhere and give its path"
        ) from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def _state_dict(content: Any, source: str) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = isinstance(content, Mapping) and all(isinstance(key, str) for key in content)
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)} if named else {}
    if not tensors:
        where = 'alone or as "state_dict" or "model" of a checkpoint'
        raise ValueError(f"{source} holds no state dict: tensors by their names, {where}")
    return tensors
