"""Attach attention modules to a network, switch them off and on, and detach them."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bam.attention import AttentionSpec, SiteSpec, attention_factory, attention_name
from bam.attention.attended import Attended, carry, release
from bam.attention.contract import fit, takes_place
from bam.dryrun import Image, rehearse
from bam.placement import Site, select_sites
from bam.placement.flow import calls, run_by_intermediates
from bam.placement.selection import Wanted
from bam.private import own_modules, own_parameters
from bam.snapshot import all_or_nothing, need_module
from bam.surgery.wrapping import refuse_wrapped


def attach(
    model: nn.Module,
    attention: str | AttentionSpec | Callable[..., nn.Module] = "bam",
    *,
    sites: Wanted | Sequence[Wanted] | None = None,
    image: Image | None = None,
    identity: bool = False,
    **options: Any,
) -> nn.Module:
    """Put an attention module at each site of `model`, in place; returns `model`.

    Attach before `torch.compile` and before wrapping the model for several devices; if you already have an optimizer,
    see `extend_optimizer`. Load a plain checkpoint before attaching, or afterwards with `strict=False`; the new keys
    are `<site>.attention.*`.

    Args:
        model: any CNN.
        attention: a name in `bam.ATTENTION`, an `AttentionSpec` or its text ("bam(reduction=8, sites=layer2)"; "none"
            changes nothing), or any callable `channels -> nn.Module` whose module keeps (N, C, H, W).
        sites: "bottlenecks", "every block", "input", "3x3 convolutions of the last stage", module names, patterns
            ("layer?.*"), positions (-1), strides ("stride 8") or `Site`s, see `select_sites`; default: the module's
            `usual_sites`, where its paper puts it.
        image: an image (N, C, H, W) or a size for the forward pass that measures the sites.
        identity: keep the model's output bit for bit at the start (passed to the attention module).
        **options: passed to the attention module, e.g. `reduction=8`.

    Raises:
        ValueError: for a site that does not exist, already carries attention or is not a single feature map; a model
            that is wrapped or compiled; an unknown attention name or option. The model is then unchanged.
    """
    refuse_wrapped(model, "attach to")
    factory, spec = _factory_and_spec(attention, identity, options)
    if spec.is_none:
        return model
    chosen = select_sites(model, spec.placed(factory) if sites is None else sites, image)
    for note in chosen.notes:
        warnings.warn(note, stacklevel=2)
    spec = dataclasses.replace(spec, sites=None)
    specs = {site: SiteSpec(spec.fitted(site.height, site.width, factory), site.channels) for site in chosen}
    modules = {site: fitted(model, site, specs[site].attention.build(site.channels, factory)) for site in chosen}
    insert(model, modules, specs, chosen.image if image is None else image)
    return model


def _factory_and_spec(
    attention: str | AttentionSpec | Callable[..., nn.Module], identity: bool, options: dict[str, Any]
) -> tuple[Callable[..., nn.Module], AttentionSpec]:
    """The module factory, and one specification from all arguments of `attach`."""
    if isinstance(attention, str):
        attention = AttentionSpec.parse(attention)
    spec = attention if isinstance(attention, AttentionSpec) else AttentionSpec(attention_name(attention))
    builder = spec.name if isinstance(attention, AttentionSpec) else attention
    factory = nn.Identity if spec.is_none else attention_factory(builder)
    return factory, dataclasses.replace(spec, options=spec.options | options, identity=identity or spec.identity)


def fitted(model: nn.Module, site: Site, attention: nn.Module) -> nn.Module:
    """Adapt `attention` to the module of `model` at `site`, and return it."""
    return fit(attention, model.get_submodule(site.name), before=site.before)


def insert(
    model: nn.Module, modules: Mapping[Site, nn.Module], specs: Mapping[Site, SiteSpec], image: Image | None
) -> None:
    """Put each module at its site, with the device, floating-point type and mode of the module there.

    Raises:
        ValueError: if a site is occupied, a module does not keep the shape of the map there, or would not run exactly
            once in each kind of forward pass; the model is then unchanged.
    """
    refuse_occupied(model, list(modules))
    with all_or_nothing(model):
        for site, module in modules.items():
            carrier = model.get_submodule(site.name)
            attention = _on_device_of(module, carrier, model)
            if not takes_place(attention):
                _check_shape(attention, site)
            carry(carrier, attention, specs[site], before=site.before, axes=site.axes)
        _check_calls(model, list(modules), image)


def _check_shape(attention: nn.Module, site: Site) -> None:
    """Raise ValueError unless `attention` takes the map at `site` and returns one of the same shape."""
    shape = (1, site.channels, site.height, site.width)
    where = f"attention: {type(attention).__name__} at {site.label!r}"
    contract = "a module must take a feature map (N, C, H, W) and return one of the same shape"
    try:
        output = rehearse(attention, shape)
    except Exception as error:  # a user's module may raise anything
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"{where} cannot take a map of shape {shape} ({first_line}): {contract}") from error
    returned = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if returned != shape:
        raise ValueError(f"{where} returns {returned} for a map of shape {shape}: {contract}")


def _check_calls(model: nn.Module, sites: Sequence[Site], image: Image | None) -> None:
    """Raise ValueError unless the attention at each site runs exactly once in each kind of forward pass."""
    counts = calls(model, [site.name for site in sites], image)
    wrong = {site.label: n for site in sites if (n := counts[f"{site.name}.attention"]) != 1}
    if wrong:
        times = ", ".join(f"{label} would run {count} times" for label, count in wrong.items())
        raise ValueError(
            f"attention at {times} in a forward pass: the network does not call the module there itself, but "
            "another of its methods, or its parts one by one; choose other sites"
        )
    ran = run_by_intermediates(model, image)
    reached = [site for site in sites if any(name.startswith(f"{site.name}.") for name in ran)]
    labels = [site.label for site in reached if f"{site.name}.attention" not in ran]
    if labels:
        raise ValueError(
            f"attention at {', '.join(labels)} would run in the forward pass, but not in timm's forward_intermediates "
            "and features_only, which call another method of the module there; choose other sites"
        )


def detach(model: nn.Module) -> nn.Module:
    """Remove all attention from `model`, in place, which restores the original modules; returns `model`."""
    refuse_wrapped(model, "detach from")
    with all_or_nothing(model):
        for carrier in [module for module in model.modules() if isinstance(module, Attended)]:
            release(carrier)
    return model


def attended(model: nn.Module) -> dict[str, nn.Module]:
    """The attention modules of `model` by site, in module order: {"layer1": BAM(...), ...}."""
    return {site.label: module.attention for site, module in attended_modules(model).items()}


def attended_modules(model: nn.Module) -> dict[Site, Attended]:
    """The modules of `model` that carry attention, by site; these sites have no height and width (0)."""
    need_module(model)
    return {
        Site(
            name,
            module.attention_spec.channels,
            height=0,
            width=0,
            before=module.attention_before,
            axes=module.attention_axes,
        ): module
        for name, module in model.named_modules()
        if isinstance(module, Attended)
    }


@contextlib.contextmanager
def without_attention(model: nn.Module, sites: Sequence[str] | None = None) -> Iterator[nn.Module]:
    """Switch off the attention within this context: `model` computes the plain network's output bit for bit.

    Args:
        model: a network with attention.
        sites: the sites to switch off, see `attended`; default: all.

    Raises:
        ValueError: for a site without attention.
    """
    carriers = {site.label: module for site, module in attended_modules(model).items()}
    if unknown := [site for site in sites or () if site not in carriers]:
        raise ValueError(f"there is no attention at {', '.join(unknown)}; it is at {', '.join(carriers) or 'no site'}")
    modules = list(carriers.values()) if sites is None else [carriers[site] for site in sites]
    before = [module.attention_enabled for module in modules]
    try:
        for module in modules:
            module.attention_enabled = False
        yield model
    finally:
        for module, enabled in zip(modules, before, strict=True):
            module.attention_enabled = enabled


def _on_device_of(attention: nn.Module, base: nn.Module, model: nn.Module) -> nn.Module:
    """Give `attention` the device, floating-point type and mode of the module at its site."""
    if not isinstance(attention, nn.Module):
        raise ValueError(f"attention: its factory returned a {type(attention).__name__}, not a torch.nn.Module")
    for module in (base, model):
        reference = next((p for p in module.parameters() if p.is_floating_point()), None)
        if reference is not None:
            attention = attention.to(reference.device, reference.dtype)
            break
    return attention.train(base.training)


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace `old` by `new` everywhere in `model` (a module may have several parents)."""
    for parent in list(model.modules()):
        for name, child in own_modules(parent).items():
            if child is old and parent is not new:
                own_modules(parent)[name] = new


def refuse_occupied(model: nn.Module, sites: Sequence[Site]) -> None:
    """Raise ValueError if a module at `sites` already carries attention, or its state-dict keys would collide."""
    chosen: dict[nn.Module, str] = {}
    for site in sites:
        base = model.get_submodule(site.name)
        if base in chosen:
            raise ValueError(f"{chosen[base]!r} and {site.label!r} are one module, which can carry attention only once")
        chosen[base] = site.label
        if isinstance(base, Attended):
            kind = type(base.attention).__name__
            raise ValueError(f"site {site.name!r} already carries {kind}; call bam.detach(model) first")
        if "attention" in own_modules(base) or "attention" in own_parameters(base):
            raise ValueError(
                f"site {site.name!r} ({type(base).__name__}) has a part named 'attention', so the key "
                f"'{site.name}.attention' would collide; choose a neighbouring site"
            )
