"""Save a network with its attention as two files, weights and configuration, and load it again."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor, nn

from bam.attention.contract import is_fused
from bam.export.config import CONFIG, WEIGHTS, NetworkConfig
from bam.export.description import NetworkDescription, complete
from bam.export.download import download
from bam.export.keywords import check_keywords
from bam.export.rebuild import build_backbone, build_own, check_same, rebuild
from bam.files import write_atomically
from bam.surgery.wrapping import refuse_wrapped
from bam.tensors import listed, read_safetensors, safetensors

_SAVED_WITH = "bam.config"  # the weights' metadata: a copy of the configuration; one entry, as their order varies


def save_pretrained(
    model: nn.Module,
    folder: Path | str,
    *,
    attention: Callable[..., nn.Module] | None = None,
    **description: Unpack[NetworkDescription],
) -> None:
    """Write `model` to `folder`/model.safetensors and `folder`/config.json, for `from_pretrained`.

    Before anything is written, the network is rebuilt from the files' content and compared with `model`: its tensors by
    name, and its output for noise. If the model was itself loaded, missing fields come from `model.bam_config`, so
    after further training `save_pretrained(model, folder)` is enough.

    Args:
        model: a network with or without attention, in any floating type; its state is restored.
        folder: created if it does not exist; other files in it stay.
        attention: builds the attention (`channels -> nn.Module`) if it is not in `bam.ATTENTION`.
        backbone: the name by which `bam.models.build` builds the network without attention. A "<module>:<function>" is
            imported now, but `from_pretrained` will need it as an argument: it never runs code that a file names.
        num_classes: number of outputs; default: the number of `classes`, or of the model's outputs.
        classes: class names.
        mean: mean of each channel of the training images, on the scale 0 to 1.
        std: standard deviation of each channel, on the scale 0 to 1.
        image_size: side, or height and width, in pixels; default: the network's own or 224.
        resize: an image's shorter side in pixels before the centre is cropped; default: the longer side of image_size.

    Raises:
        ValueError: if the files would not restore this network; nothing is written then.
        ImportError: if safetensors is missing, or torchvision or timm for a backbone of theirs.
        OSError: if the files cannot be written; even then, the folder never loads as a different network.
    """
    check_keywords("save_pretrained", description, NetworkDescription)
    folder, save = Path(folder), safetensors().torch.save
    try:
        tensors = _tensors(model)
        config, images = complete(model, description)
        network = build_backbone(config, Path(CONFIG))
        copy = rebuild(network, config, tensors, (Path(CONFIG), Path(WEIGHTS)), attention)
        check_same(model, copy, images, config)
    except ValueError as error:
        raise ValueError(f"{folder} was not written: {error}") from error
    # If interrupted between the two writes, the weights' metadata reveal that the configuration is an older one.
    write_atomically(folder / WEIGHTS, save(tensors, {_SAVED_WITH: config.to_json()}))
    write_atomically(folder / CONFIG, config.to_json())


def from_pretrained(
    source: Path | str,
    *,
    revision: str | None = None,
    backbone: nn.Module | Callable[..., nn.Module] | None = None,
    attention: Callable[..., nn.Module] | None = None,
) -> nn.Module:
    """Load the network saved in a folder by `save_pretrained`, or in a Hugging Face Hub repository; in eval mode.

    Its `bam_config` is its `NetworkConfig` (classes, normalisation, image size); `preprocessing` turns images into its
    input. It is on the CPU, and its parameters keep the floating type in which they were saved.

    Args:
        source: a folder, or "owner/name" on the Hub, from which the two files are downloaded.
        revision: branch, tag or commit on the Hub.
        backbone: the network without attention, which is changed in place, or a function that builds it (called with
            `num_classes` if it takes that); default: built by the name in the configuration.
        attention: builds the attention (`channels -> nn.Module`) if it is not in `bam.ATTENTION`.

    Raises:
        ValueError: naming file and field, if a file is damaged, the two do not belong together, or they name something
            unknown. Nothing in them is executed.
        FileNotFoundError: if a file or the repository does not exist.
        ImportError: if safetensors, torchvision, timm or huggingface_hub is needed but missing.
    """
    folder = _folder(source, revision)
    paths = folder / CONFIG, folder / WEIGHTS
    config = NetworkConfig.read(paths[0])
    tensors, metadata = read_safetensors(paths[1])
    if _SAVED_WITH in metadata:
        _check_together(config, metadata[_SAVED_WITH], paths)
    if backbone is not None:
        network = build_own(backbone, config.num_classes)
    elif ":" in config.backbone:
        problem = f"backbone: {config.backbone!r} is code outside bam, and bam never runs code that a file names"
        raise ValueError(
            f"{paths[0]}: {problem}; pass the network: bam.export.from_pretrained(..., backbone=my_network)"
        )
    else:
        network = build_backbone(config, paths[0])
    return rebuild(network, config, tensors, paths, attention)


def _check_together(config: NetworkConfig, metadata: str, paths: tuple[Path, Path]) -> None:
    """Raise ValueError if the weights were saved with another configuration, naming the first field that differs."""
    saved = NetworkConfig.from_json(metadata, f"the metadata of {paths[1]}")
    for field in dataclasses.fields(config):
        if getattr(config, field.name) != getattr(saved, field.name):
            problem = f"{field.name}: {paths[1]} was saved with another value"
            cause = "saving was interrupted, or the file was edited"
            raise ValueError(f"{paths[0]}: {problem}: {cause}; to change it, use bam.export.save_pretrained")


def _folder(source: Path | str, revision: str | None) -> Path:
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        return download(source, revision=revision)
    raise FileNotFoundError(f"there is no folder {source}; a network on the Hugging Face Hub is named owner/name")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the tensors in the model's state dict; tied tensors appear under each of their names."""
    refuse_wrapped(model, "save")
    if is_fused(model):
        raise ValueError("its attention is fused, which no file can restore: save the model you passed to bam.fuse")
    state = model.state_dict()
    others = [key for key, value in state.items() if not isinstance(value, Tensor) or value.device.type == "meta"]
    if others:
        raise ValueError(f"every state-dict entry must be a tensor with values; these are not: {listed(others)}")
    return {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
