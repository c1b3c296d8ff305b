"""The network inside a detector: where its parts went, its attention, its weights, its normalisation."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn

from bam.attention import AttentionSpec
from bam.attention.batchnorm import freeze_statistics
from bam.models.pretrained import current_names
from bam.models.weights import read_weights
from bam.placement import Sites, find_bottlenecks, select_sites
from bam.private import NormBase
from bam.records import FILE_NAME, Record
from bam.surgery import attach, attended
from bam.tasks.detection.detectors import DetectorModule
from bam.tensors import check_fit, listed


def attach_to(
    detector: DetectorModule, network: nn.Module, spec: AttentionSpec, image: tuple[int, int] | None
) -> dict[str, str]:
    """Attach attention to a detector, in place; returns each site's name in the detector by its name in the network.

    Args:
        detector: was put together around `network`.
        network: the plain classification network, whose bottlenecks are the default.
        spec: its sites are names in the detector (backbone.…), or what `bam.select_sites` takes for the network.
        image: height and width of the images, for the pass that measures the sites.

    Raises:
        ValueError: for a site that is not in the detector, and what `bam.attach` raises.
    """
    if spec.is_none:
        return {}
    in_detector = [site for site in spec.sites or () if site.startswith(("backbone.", "before backbone."))]
    in_network = [site for site in spec.sites or () if site not in in_detector]
    chosen = Sites()
    if spec.sites is None:
        chosen = find_bottlenecks(network)
    elif in_network:
        chosen = select_sites(network, in_network)
    places = {id(module): name for name, module in detector.named_modules()}
    modules = dict(network.named_modules())
    lost = [site.label for site in chosen if id(modules[site.name]) not in places]
    if lost:
        raise ValueError(f"the detector does not have {listed(lost)} of its backbone in one piece; choose other sites")
    names = {site.name: places[id(modules[site.name])] for site in chosen}
    labels = [f"{'before ' if site.before else ''}{names[site.name]}" for site in chosen]
    attach(detector, spec, sites=[*labels, *in_detector], image=image)
    return names


def load_backbone(
    detector: DetectorModule, network: nn.Module, name: str, weights: str, sites: Mapping[str, str] | None = None
) -> None:
    """Load the weights of a classification network into the part of a detector that came from it.

    Weights with attention are for a detector with the same attention at the same places; plain ones are for any.

    Args:
        detector: with its attention.
        network: the plain network around which it was put together.
        name: of that network, in `bam.models`.
        weights: a file, the folder of a complete run, or a tag of torchvision or timm.
        sites: what `attach_to` has returned.

    Raises:
        ValueError: if they do not fit; the detector is then unchanged.
        FileNotFoundError, OSError, ImportError: as `bam.models.load_pretrained`.
    """
    folder = Path(os.path.expanduser(weights))
    if (folder / FILE_NAME).is_file() and (trained := Record.read(folder).recipe["model"]) != name:
        raise ValueError(f"{weights} is a run of {trained}, and the backbone of this detector is {name}")
    state = network.state_dict()
    source, given = read_weights(name, weights)
    given = current_names(given, network, state)
    names = _names_in(detector, network)
    attention = _attention_names(detector, sites or {})
    with_attention = {key.partition(".attention.")[0] for key in given if ".attention." in key}
    if with_attention and not attention:
        raise ValueError(
            f"{source} was trained with attention at {listed(sorted(with_attention))}, and is another network without "
            "it: train the detector with this attention, or give the weights of a plain network"
        )
    wanted = names | attention if with_attention else names
    own = detector.state_dict()
    needed = {key: own[there] for key, there in wanted.items()}
    rest = state.keys() - needed.keys()  # a classifier, say, of any shape
    check_fit(needed, {key: value for key, value in given.items() if key not in rest}, source, name)
    with torch.no_grad():
        for key, there in wanted.items():
            own[there].copy_(given[key])


def apply_batchnorm_policy(detector: DetectorModule, network: nn.Module, policy: str) -> DetectorModule:
    """Apply a recipe's BatchNorm policy; returns the detector, whose layers may be others then.

    "frozen": BatchNorms that came from `network` keep statistics, weight and bias; those of attention keep statistics.
    "sync": BatchNorms take their statistics over all processes. "batch": nothing changes.

    Raises:
        ValueError: for "sync" where torch cannot do it.
    """
    if policy == "frozen":
        trained = {module for module in network.modules() if isinstance(module, NormBase)}
        of_attention = {part for module in attended(detector).values() for part in module.modules()}
        for module in detector.modules():
            if isinstance(module, NormBase) and (module in trained or module in of_attention):
                freeze_statistics(module)
                if module not in of_attention:
                    for parameter in module.parameters():
                        parameter.requires_grad_(False)
    if policy == "sync" and PartialState().num_processes > 1:
        if not torch.cuda.is_available():
            raise ValueError("batchnorm sync is for several GPUs: torch has none for CPUs; choose batch or frozen")
        return nn.SyncBatchNorm.convert_sync_batchnorm(detector)
    return detector


def _names_in(detector: DetectorModule, network: nn.Module) -> dict[str, str]:
    """The name in the detector of each tensor that came from the network, by its name there."""
    there = {id(tensor): name for name, tensor in _tensors(detector).items()}
    return {name: there[id(tensor)] for name, tensor in _tensors(network).items() if id(tensor) in there}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _attention_names(detector: DetectorModule, sites: Mapping[str, str]) -> dict[str, str]:
    carried = attended(detector)
    return {
        f"{site}.attention.{key}": f"{there}.attention.{key}"
        for site, there in sites.items()
        for key in carried[there].state_dict()
    }
