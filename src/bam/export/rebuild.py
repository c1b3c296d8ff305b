"""Rebuild a network from its configuration and tensors, and check that it matches the original."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bam.attention import SiteSpec
from bam.dryrun import left_as_it_was
from bam.export.config import NetworkConfig, set_config, sites_of
from bam.private import tree_leaves
from bam.surgery import attach, detach
from bam.tensors import listed, load_tensors

#: Parameter type -> largest allowed difference between a network and its copy, as a share of the largest output. The
#: two may run in different memory layouts, which changed float32, float16 and bfloat16 outputs by 4e-7, 5e-4 and 4e-3
#: on the CPU. A ResNet with a wrong BatchNorm epsilon (1e-3 instead of 1e-5) differs by 5e-3, one without max-pooling
#: by 6e-2.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 0.03}
ON_ACCELERATORS = 0.01  #: smallest tolerance off the CPU, where float32 may run as TF32


def build_backbone(config: NetworkConfig, path: Path) -> nn.Module:
    """The network without attention, built by name; torch's random state does not change.

    Raises:
        ValueError: naming the configuration's `path`, if the network cannot be built.
    """
    from bam.models import build

    try:
        with torch.random.fork_rng(devices=[]):
            return build(config.backbone, config.num_classes)
    except ImportError:
        raise
    except Exception as error:  # any builder may raise anything for values from a file
        problem = f"{config.backbone!r} cannot be built with num_classes={config.num_classes}: {_first_line(error)}"
        raise ValueError(f"{path}: backbone: {problem}") from None


def build_own(backbone: nn.Module | Callable[..., nn.Module], num_classes: int | None) -> nn.Module:
    """The caller's network, or the network built by the caller's function."""
    if isinstance(backbone, nn.Module):
        return backbone
    takes_num_classes = "num_classes" in inspect.signature(backbone).parameters
    network = backbone(num_classes=num_classes) if takes_num_classes and num_classes is not None else backbone()
    if not isinstance(network, nn.Module):
        raise ValueError(f"backbone= returned a {type(network).__name__}, not a torch.nn.Module")
    return network


def rebuild(
    network: nn.Module,
    config: NetworkConfig,
    tensors: dict[str, Tensor],
    paths: tuple[Path, Path],
    attention: Callable[..., nn.Module] | None,
) -> nn.Module:
    """Turn a backbone into the saved network, in place; returns it in eval mode.

    Args:
        network: the backbone; any attention in it is removed.
        config: the configuration.
        tensors: the state dict.
        paths: paths of the configuration and of the tensors, for error messages.
        attention: builds the attention if it is not in `bam.ATTENTION`.

    Raises:
        ValueError: naming the file, if attention or tensors do not match the backbone.
    """
    detach(network)
    _attach(network, config, paths[0], attention)
    types = {value.dtype for value in tensors.values() if value.is_floating_point()}
    if len(types) == 1:
        network.to(types.pop())  # includes buffers that are not in the state dict
    for key, value in network.state_dict(keep_vars=True).items():
        if value.is_floating_point() and key in tensors and tensors[key].is_floating_point():
            value.data = value.data.to(tensors[key].dtype)
    load_tensors(network, tensors, paths[1], _title(config))
    set_config(network, config)
    return network.eval()


def _title(config: NetworkConfig) -> str:
    return f"{config.backbone} with attention at {listed(config.sites) or 'no site'}"


def _attach(network: nn.Module, config: NetworkConfig, path: Path, attention: Callable[..., nn.Module] | None) -> None:
    """Attach the attention in the configuration, all sites with the same specification at once."""
    image = (len(config.mean), *config.image_size)
    labels_of: dict[str, list[str]] = {}
    for label, site in config.sites.items():
        labels_of.setdefault(str(site.attention), []).append(label)
    for labels in labels_of.values():
        spec = config.sites[labels[0]]
        if spec.is_own and attention is None:
            problem = f"the attention at {listed(labels)} is not in bam.ATTENTION"
            raise ValueError(f"{path}: sites: {problem}: pass a function that builds it, attention=")
        try:
            with torch.random.fork_rng(devices=[]):
                if spec.is_own and attention is not None:
                    attach(network, attention, sites=labels, image=image, **spec.attention.arguments)
                else:
                    attach(network, spec.attention, sites=labels, image=image)
        except Exception as error:  # a module may raise anything for options from a file
            raise ValueError(
                f"{path}: sites: {spec.attention.name} at {listed(labels)}: {_first_line(error)}"
            ) from None
    _check_sites(network, config, path)


def _check_sites(network: nn.Module, config: NetworkConfig, path: Path) -> None:
    """Raise ValueError unless `network` has attention at the configuration's sites, with its channels and options.

    Module names are not compared: a file may not know the name of the caller's own module.
    """
    actual = sites_of(network)
    for label in sorted(config.sites.keys() | actual):
        expected, value = (_channels_and_options(sites.get(label)) for sites in (actual, config.sites))
        if expected != value:
            raise ValueError(f"{path}: sites: {label}: expected {expected}, as in {config.backbone}, got {value}")


def _channels_and_options(site: SiteSpec | None) -> dict[str, Any] | None:
    if site is None:
        return None
    return {name: value for name, value in site.to_dict().items() if name != "attention"}


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The tensors in `model`'s output for `images` (N, C, H, W), float64 on the CPU; its state is restored.

    Raises:
        ValueError: if the model does not run on such images.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), images)
    try:
        with left_as_it_was(model):
            leaves: list[Any] = tree_leaves(model(images.to(like.device, like.dtype)))
    except Exception as error:  # a network may raise anything for images of the wrong size
        problem = f"the model does not run on images {tuple(images.shape)}: {_first_line(error)}"
        raise ValueError(f"{problem}; pass image_size=") from error
    return [leaf.double().cpu() for leaf in leaves if isinstance(leaf, Tensor)]


def check_same(model: nn.Module, copy: nn.Module, images: Tensor, config: NetworkConfig) -> None:
    """Raise ValueError unless `copy` has the same output as `model` for `images` (N, C, H, W)."""
    like = next((p for p in model.parameters() if p.is_floating_point()), images)
    expected, actual = outputs(model, images), outputs(copy.to(like.device), images)
    tolerance = max(TOLERANCE.get(like.dtype, 0.1), ON_ACCELERATORS if like.device.type != "cpu" else 0.0)
    if len(expected) != len(actual) or not all(_close(*pair, tolerance) for pair in zip(expected, actual, strict=True)):
        raise ValueError(
            f"rebuilt as {_title(config)}, its outputs differ from the model's: was the model changed after it was "
            'built, or its attention switched off? Pass the function that builds it, backbone="<module>:<function>"'
        )


def _close(left: Tensor, right: Tensor, tolerance: float) -> bool:
    finite = left[left.isfinite()].abs()
    limit = tolerance * float(finite.max()) if len(finite) else 0.0
    return left.shape == right.shape and torch.allclose(left, right, rtol=0, atol=limit, equal_nan=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
