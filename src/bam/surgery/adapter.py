"""Adapter files: the attention alone, a few hundred kB that turn any copy of the backbone into the attended network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bam.attention import SiteSpec
from bam.attention.contract import is_fused
from bam.dryrun import Image
from bam.files import strict_json, write_atomically
from bam.placement import Site, select_sites
from bam.snapshot import all_or_nothing
from bam.surgery.insertion import attended_modules, fitted, insert
from bam.surgery.wrapping import refuse_wrapped
from bam.tensors import read_safetensors, safetensors

_METADATA = "bam.attention"


def save_attention(model: nn.Module, path: Path | str) -> None:
    """Write the attention of `model` and its sites to a safetensors file, without the backbone.

    Raises:
        ValueError: if the model carries no attention or is wrapped, the attention is fused, or an option cannot be
            written as JSON.
        ImportError: if safetensors is not installed.
    """
    refuse_wrapped(model, "save the attention of")
    save = safetensors().torch.save
    modules = attended_modules(model)
    if not modules:
        raise ValueError("the model carries no attention to save: bam.attach(model) first")
    if any(is_fused(module.attention) for module in modules.values()):
        raise ValueError("the attention is fused and cannot be saved: save the model that you passed to bam.fuse")
    tensors = {
        f"{site.name}.attention.{key}": value.detach().cpu().contiguous()
        for site, module in modules.items()
        for key, value in module.attention.state_dict().items()
    }
    sites = {site.label: _spec_entry(site, module.attention_spec) for site, module in modules.items()}
    write_atomically(Path(path), save(tensors, {_METADATA: strict_json(sites, indent=None)}))


def _spec_entry(site: Site, spec: SiteSpec) -> dict[str, Any]:
    try:
        return spec.to_dict()
    except ValueError as error:
        raise ValueError(f"the attention at {site.label!r}: {error}") from None


def load_attention(
    model: nn.Module,
    path: Path | str,
    *,
    attention: Callable[..., nn.Module] | None = None,
    image: Image | None = None,
) -> nn.Module:
    """Load the attention from a `save_attention` file into `model`, in place; returns `model`.

    Modules the model does not have yet are attached; those it already carries get the saved values.

    Args:
        model: the backbone, with or without the attention.
        path: the file. Nothing in it is executed.
        attention: a function that builds the modules (`channels -> nn.Module`); needed if `bam.ATTENTION` lacks them.
        image: an image or a size for the forward pass that checks the sites.

    Raises:
        ValueError: if the file is not from `save_attention`, or does not fit the model, or the model is wrapped; the
            model is then unchanged.
        FileNotFoundError: if there is no such file.
    """
    refuse_wrapped(model, "load attention into")
    path = Path(path)
    tensors, specs = _read(path)
    present = attended_modules(model)
    for site, carrier in present.items():
        _check_spec(site, carrier.attention_spec, specs.get(site.label), path)
    labels = [label for label in specs if label not in {site.label for site in present}]
    new = select_sites(model, labels, image) if labels else []
    if {site.label for site in new} != set(labels):
        raise ValueError(f"{path} contains sites that are not module names: {', '.join(labels)}")
    modules = {site: fitted(model, site, _build(site, specs[site.label], attention, path)) for site in new}
    for site, module in modules.items():
        _check_fit(site, module, _site_tensors(tensors, site), path)
        module.load_state_dict(_site_tensors(tensors, site))
    for site, carrier in present.items():
        _check_fit(site, carrier.attention, _site_tensors(tensors, site), path)
    values = [value for carrier in present.values() for value in carrier.attention.state_dict(keep_vars=True).values()]
    with all_or_nothing(model, values):
        insert(model, modules, {site: specs[site.label] for site in modules}, image)
        for site, carrier in present.items():
            carrier.attention.load_state_dict(_site_tensors(tensors, site))
    return model


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, SiteSpec]]:
    try:
        tensors, metadata = read_safetensors(path)
        content = json.loads(metadata[_METADATA])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a file from bam.save_attention ({error})") from None
    try:
        specs = {label: SiteSpec.from_dict(entry) for label, entry in content.items()}
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: its description of the sites cannot be read ({error})") from None
    sites = tuple(f"{label.removeprefix('before ')}.attention." for label in specs)
    if not sites or not all(key.startswith(sites) for key in tensors):
        raise ValueError(f"{path} is damaged: its description of the sites does not match its tensors")
    return tensors, specs


def _check_spec(site: Site, present: SiteSpec, saved: SiteSpec | None, path: Path) -> None:
    if saved is None:
        raise ValueError(f"{path} has no attention for {site.label!r}; call bam.detach(model) first")
    present_dict, saved_dict = present.to_dict(), saved.to_dict()
    same_module = present_dict["attention"] == saved_dict["attention"] or (present.is_own and saved.is_own)
    if not same_module or present_dict["options"] != saved_dict["options"]:
        raise ValueError(
            f"{path} holds {saved.attention} for {site.label!r}, this model has {present.attention}; "
            "call bam.detach(model) first"
        )


def _build(site: Site, spec: SiteSpec, attention: Callable[..., nn.Module] | None, path: Path) -> nn.Module:
    if attention is None and spec.is_own:
        name = spec.attention.name
        raise ValueError(
            f"{path} holds modules that are not in bam.ATTENTION ({name}): pass a function that builds them, attention="
        )
    if spec.channels != site.channels:
        mismatch = f"{spec.channels} channels at {site.label!r}, this model has {site.channels} there"
        raise ValueError(f"{path} was saved for {mismatch}")
    try:
        return spec.attention.build(site.channels, attention)
    except ValueError as error:
        raise ValueError(f"{path}: the attention at {site.label!r} cannot be built: {error}") from None


def _site_tensors(tensors: dict[str, Tensor], site: Site) -> dict[str, Tensor]:
    prefix = f"{site.name}.attention."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _check_fit(site: Site, module: nn.Module, values: dict[str, Tensor], path: Path) -> None:
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    saved = {key: tuple(value.shape) for key, value in values.items()}
    if expected != saved:
        differing = sorted(key for key in expected.keys() | saved.keys() if expected.get(key) != saved.get(key))
        raise ValueError(
            f"{path} does not fit the {type(module).__name__} at {site.label!r}: they differ in {', '.join(differing)}"
        )
