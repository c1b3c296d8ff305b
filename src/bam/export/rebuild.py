"""A network from its configuration and its tensors, and whether it is the one that was saved."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bam.attention import SiteSpec
from bam.dryrun import left_as_it_was
from bam.export.config import NetworkConfig, carry, sites_of
from bam.private import tree_leaves
from bam.surgery import attach, detach
from bam.tensors import listed, load_tensors

#: Type of the parameters -> largest difference between a network and its copy, as a share of the largest output. They
#: may run in different memory layouts: on the CPU that made 4e-7, 5e-4 and 4e-3. ResNets with another epsilon in their
#: BatchNorms (1e-3, not 1e-5) differ by 5e-3, without their max-pooling by 6e-2.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 0.03}
ON_ACCELERATORS = 0.01  # where float32 may be computed in TF32


def build_backbone(config: NetworkConfig, path: Path) -> nn.Module:
    """The network without attention, by its name; torch's random numbers go on as if it had not been built."""
    from bam.models import build

    try:
        with torch.random.fork_rng(devices=[]):
            return build(config.backbone, config.num_classes)
    except ImportError:
        raise
    except Exception as error:  # many builders, given a number of classes that a file says
        reason = f"{config.backbone!r} cannot be built with num_classes={config.num_classes}: {_line(error)}"
        raise ValueError(f"{path}: backbone: {reason}") from None


def build_own(backbone: nn.Module | Callable[..., nn.Module], num_classes: int | None) -> nn.Module:
    """The network that the caller gave, or what builds it."""
    if isinstance(backbone, nn.Module):
        return backbone
    takes = inspect.signature(backbone).parameters
    network = backbone(**({"num_classes": num_classes} if "num_classes" in takes and num_classes is not None else {}))
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
    """Turn the backbone into the network that was saved, in place; in eval mode.

    `paths` are those of the configuration and of the tensors, for what is told.
    """
    detach(network)
    _attach(network, config, paths[0], attention)
    types = {value.dtype for value in tensors.values() if value.is_floating_point()}
    if len(types) == 1:
        network.to(types.pop())  # with what is not in state dicts
    for key, value in network.state_dict(keep_vars=True).items():
        if value.is_floating_point() and key in tensors and tensors[key].is_floating_point():
            value.data = value.data.to(tensors[key].dtype)
    load_tensors(network, tensors, paths[1], f"{config.backbone} with attention at {listed(config.sites) or 'no site'}")
    carry(network, config)
    return network.eval()


def _attach(network: nn.Module, config: NetworkConfig, path: Path, attention: Callable[..., nn.Module] | None) -> None:
    """Attach what the configuration names, the sites of equal options together."""
    image = (len(config.mean), *config.image_size)
    own: dict[str, dict[str, Any]] = {}
    equal: dict[str, list[str]] = {}
    for label, content in config.sites.items():
        equal.setdefault(str(SiteSpec.from_dict(content).attention), []).append(label)
    for labels in equal.values():
        spec = SiteSpec.from_dict(config.sites[labels[0]])
        if spec.is_own and attention is None:
            what = f"the attention at {listed(labels)} is not of bam.ATTENTION"
            raise ValueError(f"{path}: sites: {what}: give what builds it, attention=")
        try:
            with torch.random.fork_rng(devices=[]):
                if spec.is_own and attention is not None:
                    attach(network, attention, sites=labels, image=image, **spec.attention.arguments)
                else:
                    attach(network, spec.attention, sites=labels, image=image)
            own = sites_of(network)
        except Exception as error:  # whatever a module raises for the options that a file says
            raise ValueError(f"{path}: sites: {spec.attention.name} at {listed(labels)}: {_line(error)}") from None
    for label in sorted(config.sites.keys() | own):
        there, wanted = (_but_name(sites.get(label)) for sites in (own, config.sites))
        if there != wanted:
            raise ValueError(f"{path}: sites: {label}: expected {there}, as {config.backbone} has it, got {wanted}")


def _but_name(origin: dict[str, Any] | None) -> dict[str, Any] | None:
    """Channels and options; the name of a module of the caller's own is not known."""
    return origin and {"channels": origin["channels"], "options": origin["options"]}


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The tensors in `model`'s output for `images`, in eval mode, on the CPU; the model is left as it was."""
    like = next((p for p in model.parameters() if p.is_floating_point()), images)
    try:
        with left_as_it_was(model):
            leaves: list[Any] = tree_leaves(model(images.to(like.device, like.dtype)))
    except Exception as error:  # somebody's network may raise anything where it does not take such images
        what = f"the model does not run on images {tuple(images.shape)}: {_line(error)}"
        raise ValueError(f"{what}; give image_size=") from error
    return [leaf.double().cpu() for leaf in leaves if isinstance(leaf, Tensor)]


def check_same(model: nn.Module, copy: nn.Module, images: Tensor, config: NetworkConfig) -> None:
    """Raise a ValueError unless `copy` computes on `images` what `model` does."""
    like = next((p for p in model.parameters() if p.is_floating_point()), images)
    ours, theirs = outputs(model, images), outputs(copy.to(like.device), images)
    tolerance = max(TOLERANCE.get(like.dtype, 0.1), ON_ACCELERATORS if like.device.type != "cpu" else 0.0)
    if len(ours) != len(theirs) or not all(_close(*pair, tolerance) for pair in zip(ours, theirs, strict=True)):
        raise ValueError(
            f"{config.backbone} with attention at {listed(config.sites) or 'no site'} and these weights computes "
            "something else than the model: was it changed after it was built, or its attention switched off? Give "
            'the function that builds it, backbone="<module>:<function>"'
        )


def _close(left: Tensor, right: Tensor, tolerance: float) -> bool:
    finite = left[left.isfinite()].abs()
    most = tolerance * float(finite.max()) if len(finite) else 0.0
    return left.shape == right.shape and torch.allclose(left, right, rtol=0, atol=most, equal_nan=True)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
