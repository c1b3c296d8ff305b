"""A network with its attention as a folder of two files, weights and configuration, that gives it back anywhere."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bam.attention.contract import is_fused
from bam.dryrun import image_shape
from bam.export.config import NetworkConfig, config_of, sites_of
from bam.export.rebuild import build_backbone, build_own, check_same, outputs, rebuild
from bam.files import write_atomically
from bam.surgery.wrapping import refuse_wrapped
from bam.tensors import listed, read_safetensors, safetensors

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # as huggingface_hub's PyTorchModelHubMixin names them
_SAVED_WITH = "bam.config"  # the only metadata of the weights, as their order is not fixed: the configuration again


def save_pretrained(
    model: nn.Module,
    folder: Path | str,
    *,
    backbone: str | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | Sequence[int] | None = None,
    resize: int | None = None,
    attention: Callable[..., nn.Module] | None = None,
) -> None:
    """Write `model` to `folder`/model.safetensors and `folder`/config.json, for `from_pretrained`.

    Before anything is written, the network is rebuilt from what would be in the files and compared with `model`, name
    by name and by its output for noise. What is not given is taken from `model.bam_config` if the model was itself
    loaded: one that was trained further is saved by `save_pretrained(model, folder)`.

    Args:
        model: a network with attention, or without, in whatever floating type; it is left as it was.
        folder: made if it is not there; what else lies in it stays.
        backbone: the name by which `bam.models.build` builds the network without attention. A "<module>:<function>" is
            imported here and now, but `from_pretrained` asks for the network instead: no code runs that a file names.
        num_classes: outputs of the network; default: as many as there are `classes`, or as it gives.
        classes: their names.
        mean: mean of each channel of the training images, on the scale 0 to 1.
        std: their standard deviation on that scale.
        image_size: side, or height and width, in pixels; default: the network's own or 224.
        resize: pixels of the shorter side of an image before the middle is cropped; default: the longer of image_size.
        attention: what builds the attention (`channels -> nn.Module`) if it is not of `bam.ATTENTION`.

    Raises:
        ValueError: if the files would not give this network again; nothing is then written.
        ImportError: without safetensors, or without torchvision or timm if the backbone is theirs.
        OSError: if they cannot be written; there is then no folder that loads as something else.
    """
    folder, save = Path(folder), safetensors().torch.save
    given = {"backbone": backbone, "num_classes": num_classes, "classes": classes, "mean": mean, "std": std}
    try:
        tensors = _tensors(model)
        config, images = _describe(model, given | {"image_size": image_size, "resize": resize})
        network = build_backbone(config, Path(CONFIG))
        copy = rebuild(network, config, tensors, (Path(CONFIG), Path(WEIGHTS)), attention)
        check_same(model, copy, images, config)
    except ValueError as error:
        raise ValueError(f"{folder} is not written: {error}") from error
    # If it ends between the two, these weights lie beside an older configuration, which their metadata tells.
    write_atomically(folder / WEIGHTS, save(tensors, {_SAVED_WITH: config.to_json()}))
    write_atomically(folder / CONFIG, config.to_json())


def from_pretrained(
    source: Path | str,
    *,
    revision: str | None = None,
    backbone: nn.Module | Callable[..., nn.Module] | None = None,
    attention: Callable[..., nn.Module] | None = None,
) -> nn.Module:
    """The network in a folder of `save_pretrained`, or in such a repository of the Hugging Face Hub; in eval mode.

    It carries its `NetworkConfig` (classes, normalisation, image size) as `bam_config`; `preprocessing` makes of images
    what it takes. It is on the CPU, its parameters in the floating type that they were saved in.

    Args:
        source: a folder, or "owner/name" on the Hub, of which these two files are fetched.
        revision: branch, tag or commit on the Hub.
        backbone: the network without attention, which is changed in place, or what builds it (given `num_classes` if it
            takes that); default: by the name in the configuration.
        attention: what builds the attention (`channels -> nn.Module`) if it is not of `bam.ATTENTION`.

    Raises:
        ValueError: naming file and field, if a file is damaged, the two do not belong together, or they name something
            that is not known here. Nothing in them is executed.
        FileNotFoundError: if one of the files, or the repository, is not there.
        ImportError: without safetensors, torchvision, timm or huggingface_hub where they are needed.
    """
    folder = _folder(source, revision)
    paths = folder / CONFIG, folder / WEIGHTS
    config = NetworkConfig.read(paths[0])
    tensors, metadata = read_safetensors(paths[1])
    _check_together(config, metadata, paths)
    if backbone is not None:
        network = build_own(backbone, config.num_classes)
    elif ":" in config.backbone:
        what = f"backbone: {config.backbone!r} is code of whoever saved it, and none is run because a file names it"
        raise ValueError(f"{paths[0]}: {what}; give the network: bam.export.from_pretrained(..., backbone=my_network)")
    else:
        network = build_backbone(config, paths[0])
    return rebuild(network, config, tensors, paths, attention)


def _check_together(config: NetworkConfig, metadata: dict[str, str], paths: tuple[Path, Path]) -> None:
    """Raise a ValueError if the weights were saved with another configuration, field by field."""
    own = json.loads(config.to_json())
    try:
        saved = json.loads(metadata[_SAVED_WITH]) if _SAVED_WITH in metadata else own
        field = next((field for field, value in own.items() if saved.get(field, ...) != value), None)
    except (ValueError, AttributeError, RecursionError):
        raise ValueError(f"{paths[1]} is damaged: its metadata hold no configuration") from None
    if field:
        what = f"{field}: not that with which {paths[1]} was saved: saving was interrupted, or it was edited"
        raise ValueError(f"{paths[0]}: {what}; save the network again, with {field}= to change it")


def _folder(source: Path | str, revision: str | None) -> Path:
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        from bam.export.hub import download

        return download(source, revision=revision)
    raise FileNotFoundError(f"there is no folder {source}; of the Hugging Face Hub give owner/name")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of what the model's state dict holds; tied tensors are written under each of their names."""
    refuse_wrapped(model, "save")
    if is_fused(model):
        raise ValueError("its attention is fused, which no folder gives back: save the model that bam.fuse was given")
    state = model.state_dict()
    strange = [key for key, value in state.items() if not isinstance(value, Tensor) or value.device.type == "meta"]
    if strange:
        raise ValueError(f"it takes tensors with values, and the state dict has others: {listed(strange)}")
    return {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}


def _describe(model: nn.Module, given: dict[str, Any]) -> tuple[NetworkConfig, Tensor]:
    """The configuration of `model`, and noise of the shape of the images that it takes."""
    known = config_of(model)
    if given["classes"] is not None and given["num_classes"] is None:
        given["num_classes"] = len(given["classes"])
    if given["image_size"] is None and known is None:
        given["image_size"] = image_shape(model)[2:]
    size = given["image_size"]
    if size is not None:
        given["image_size"] = (size, size) if isinstance(size, int) else tuple(size)
        given["resize"] = given["resize"] or max(given["image_size"])
    values: dict[str, Any] = {
        field: getattr(known, field, None) if value is None else value for field, value in given.items()
    }
    missing = [field for field in ("backbone", "mean", "std") if values[field] is None]
    if missing:
        raise ValueError(
            f"give {'=, '.join(missing)}=, which only a network of bam.export.from_pretrained tells itself"
        )
    values |= {field: [float(value) for value in values[field]] for field in ("mean", "std")}
    values["sites"] = sites_of(model)
    if values["classes"] is not None and not isinstance(values["classes"], str):
        values["classes"] = list(values["classes"])
    config = NetworkConfig(**values)
    images = torch.randn(1, len(config.mean), *config.image_size, generator=torch.Generator().manual_seed(0))
    found = outputs(model, images)
    if len(found) == 1 and found[0].dim() == 2:
        count = found[0].shape[1]
        if config.classes is not None and count != len(config.classes):
            raise ValueError(f"classes: the model has {count} outputs, got {len(config.classes)} names")
        values["num_classes"] = count if config.num_classes is None else config.num_classes
    return NetworkConfig(**values), images
