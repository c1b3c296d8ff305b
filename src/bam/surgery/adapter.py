"""The attention alone in a file: a few hundred kB that turn any copy of the backbone into the attended network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bam.dryrun import Image
from bam.files import write_atomically
from bam.placement import Site, select_sites
from bam.surgery.fusion import is_fused
from bam.surgery.insertion import attended_modules, attention_factory, insert
from bam.tensors import read_safetensors, safetensors

_METADATA = "bam.attention"


def save_attention(model: nn.Module, path: Path | str) -> None:
    """Write the attention of `model`, and where it sits, to a safetensors file; the backbone is not in it.

    Raises:
        ValueError: if the model carries no attention, or a fused one, or options of it cannot be written as JSON.
        ImportError: without safetensors.
    """
    save = safetensors().torch.save
    modules = attended_modules(model)
    if not modules:
        raise ValueError("the model carries no attention to save: bam.attach(model) first")
    if any(is_fused(module.attention) for module in modules.values()):
        raise ValueError("the attention is fused, and no file gives it back: save the model that bam.fuse was given")
    tensors = {
        f"{site.name}.attention.{key}": value.detach().cpu().contiguous()
        for site, module in modules.items()
        for key, value in module.attention.state_dict().items()
    }
    sites = {site.label: module.attention_origin for site, module in modules.items()}
    try:
        metadata = json.dumps(sites)
    except TypeError as error:
        raise ValueError(f"the options of the attention cannot be written: {error}") from None
    write_atomically(Path(path), save(tensors, {_METADATA: metadata}))


def load_attention(
    model: nn.Module,
    path: Path | str,
    *,
    attention: Callable[..., nn.Module] | None = None,
    image: Image | None = None,
) -> nn.Module:
    """Give `model` the attention of a file that `save_attention` wrote, in place, and return `model`.

    A plain copy of the backbone gets the modules attached; one that carries them already gets their values.

    Args:
        model: the backbone.
        path: the file. Nothing in it is executed.
        attention: what builds the modules (`channels -> nn.Module`), needed if they are not of `bam.ATTENTION`.
        image: an image or a size for the forward pass that checks the sites.

    Raises:
        ValueError: if the file is none of `save_attention`, or does not fit the model; the model is then unchanged.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    tensors, origins = _read(path)
    present = attended_modules(model)
    for site, carrier in present.items():
        _check_origin(site, carrier.attention_origin, origins.get(site.label), path)
    labels = [label for label in origins if label not in {site.label for site in present}]
    new = select_sites(model, labels, image) if labels else []
    if {site.label for site in new} != set(labels):
        raise ValueError(f"{path} holds sites that are no names: {', '.join(labels)}")
    made = {site: _build(site, origins[site.label], attention, path) for site in new}
    for site, module in made.items():
        _check_fit(site, module, _of_site(tensors, site), path)
        module.load_state_dict(_of_site(tensors, site))
    for site, carrier in present.items():
        _check_fit(site, carrier.attention, _of_site(tensors, site), path)
    insert(model, made, {site: origins[site.label] for site in made}, image)
    for site, carrier in present.items():
        carrier.attention.load_state_dict(_of_site(tensors, site))
    return model


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    try:
        tensors, metadata = read_safetensors(path)
        origins = json.loads(metadata[_METADATA])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is no file of bam.save_attention ({error})") from None
    kinds: dict[str, Any] = {"attention": (str, type(None)), "channels": int, "options": dict}
    whole = isinstance(origins, dict) and all(
        isinstance(origin, dict) and all(isinstance(origin.get(key, ...), kind) for key, kind in kinds.items())
        for origin in origins.values()
    )
    sites = tuple(f"{label.removeprefix('before ')}.attention." for label in origins) if whole else ()
    if not sites or not all(key.startswith(sites) for key in tensors):
        raise ValueError(f"{path} is damaged: its description of the sites does not fit its tensors")
    return tensors, origins


def _check_origin(site: Site, own: dict[str, Any], theirs: dict[str, Any] | None, path: Path) -> None:
    if theirs is None:
        raise ValueError(f"{path} holds nothing for the attention at {site.label}; bam.detach(model) first")
    ours = json.loads(json.dumps(own, default=str))
    if any(ours.get(key) != theirs[key] for key in ("attention", "options")):
        built = [f"{origin['attention'] or 'a module of your own'} {origin['options']}" for origin in (theirs, ours)]
        raise ValueError(
            f"{path} holds {built[0]} for {site.label!r}, this model has {built[1]}; bam.detach(model) first"
        )


def _build(site: Site, origin: dict[str, Any], attention: Callable[..., nn.Module] | None, path: Path) -> nn.Module:
    if attention is None and origin["attention"] is None:
        raise ValueError(f"{path} holds modules that are not in bam.ATTENTION: give what builds them, attention=")
    if origin["channels"] != site.channels:
        channels = f"{origin['channels']} channels at {site.label!r}, this model has {site.channels} there"
        raise ValueError(f"{path} was saved for {channels}")
    try:
        return (attention or attention_factory(origin["attention"]))(site.channels, **origin["options"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the attention at {site.label!r} cannot be built: {error}") from None


def _of_site(tensors: dict[str, Tensor], site: Site) -> dict[str, Tensor]:
    prefix = f"{site.name}.attention."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _check_fit(site: Site, module: nn.Module, values: dict[str, Tensor], path: Path) -> None:
    own = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    theirs = {key: tuple(value.shape) for key, value in values.items()}
    if own != theirs:
        differing = sorted(key for key in own.keys() | theirs.keys() if own.get(key) != theirs.get(key))
        raise ValueError(
            f"{path} does not fit the {type(module).__name__} at {site.label!r}: they differ in {', '.join(differing)}"
        )
