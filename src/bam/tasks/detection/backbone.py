"""The network inside a detector: its module names, attention, weights and BatchNorms."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bam.attention import AttentionSpec
from bam.attention.batchnorm import freeze_statistics
from bam.models.pretrained import current_names
from bam.models.weights import read_weights
from bam.placement import Sites, select_sites
from bam.private import NormBase
from bam.records import FILE_NAME, Record
from bam.surgery import attach, attended
from bam.surgery.insertion import attended_modules
from bam.tasks.building import synchronized
from bam.tasks.detection.detectors import DetectorModule
from bam.tensors import check_fit, listed


def attach_to(
    detector: DetectorModule, network: nn.Module, spec: AttentionSpec, image: tuple[int, int] | None
) -> dict[str, str]:
    """Attach attention to a detector, in place; returns site name in the network -> site name in the detector.

    Args:
        detector: built around `network`.
        network: the plain classification network.
        spec: its sites are names in the detector (backbone.…), or selections in the network as for `bam.select_sites`.
        image: height and width of the images for the pass that measures the sites.

    Raises:
        ValueError: for a site that is not in the detector; also the errors of `bam.attach`.
    """
    if spec.is_none:
        return {}
    requested = spec.placed()
    in_detector = [site for site in requested if site.startswith(("backbone.", "before backbone."))]
    in_network = [site for site in requested if site not in in_detector]
    sites = select_sites(network, in_network) if in_network else Sites()
    detector_names = {id(module): name for name, module in detector.named_modules()}
    modules = dict(network.named_modules())
    missing = [site.label for site in sites if id(modules[site.name]) not in detector_names]
    if missing:
        raise ValueError(
            f"the detector does not keep {listed(missing)} of its backbone as one module; choose other sites"
        )
    names = {site.name: detector_names[id(modules[site.name])] for site in sites}
    labels = [f"{'before ' if site.before else ''}{names[site.name]}" for site in sites]
    attach(detector, spec, sites=[*labels, *in_detector], image=image)
    return names


def load_backbone(
    detector: DetectorModule, network: nn.Module, name: str, weights: str, sites: Mapping[str, str] | None = None
) -> None:
    """Load the weights of a classification network into a detector's backbone.

    Weights with attention need a detector with the same attention at the same sites; plain weights fit any detector.

    Args:
        detector: with its attention.
        network: the plain network the detector was built around.
        name: name of that network in `bam.models`.
        weights: a file, the folder of a complete run, or a torchvision or timm tag.
        sites: the return value of `attach_to`.

    Raises:
        ValueError: if they do not fit; the detector is then unchanged.
        FileNotFoundError, OSError, ImportError: as `bam.models.load_pretrained`.
    """
    folder = Path(os.path.expanduser(weights))
    if (folder / FILE_NAME).is_file() and (trained := Record.read(folder).recipe["model"]) != name:
        raise ValueError(f"{weights} is a run of {trained}, but the backbone of this detector is {name}")
    network_state = _plain_state(network)
    source, tensors = read_weights(name, weights)
    tensors = current_names(tensors, network, network_state)
    backbone_names = _names_in(detector, network)
    attention_names = _attention_names(detector, sites or {})
    attention_sites = {key.partition(".attention.")[0] for key in tensors if ".attention." in key}
    if attention_sites and not attention_names:
        raise ValueError(
            f"{source} was trained with attention at {listed(sorted(attention_sites))}, and is a different network "
            "without it: train the detector with this attention, or give the weights of a plain network"
        )
    names = backbone_names | attention_names if attention_sites else backbone_names
    detector_state = detector.state_dict()
    targets = {key: detector_state[detector_name] for key, detector_name in names.items()}
    unused = network_state.keys() - targets.keys()  # e.g. the classifier, of any shape
    check_fit(targets, {key: value for key, value in tensors.items() if key not in unused}, source, name)
    with torch.no_grad():
        for key, target in targets.items():
            target.copy_(tensors[key])


def apply_batchnorm_policy(detector: DetectorModule, network: nn.Module, policy: str) -> DetectorModule:
    """Apply a recipe's BatchNorm policy; returns the detector, in which layers may have been replaced.

    "frozen": BatchNorms of `network` keep statistics, weight and bias; those of the attention keep their statistics.
    "sync": BatchNorms compute their statistics over all processes. "batch": nothing changes.

    Raises:
        ValueError: for "sync" on several CPU processes, which torch does not support.
    """
    if policy == "frozen":
        backbone_norms = {module for module in network.modules() if isinstance(module, NormBase)}
        attention_parts = {part for module in attended(detector).values() for part in module.modules()}
        for module in detector.modules():
            if isinstance(module, NormBase) and (module in backbone_norms or module in attention_parts):
                freeze_statistics(module)
                if module not in attention_parts:
                    for parameter in module.parameters():
                        parameter.requires_grad_(False)
    return synchronized(detector) if policy == "sync" else detector


def _names_in(detector: DetectorModule, network: nn.Module) -> dict[str, str]:
    """Tensor name in the network -> name of the same tensor in the detector."""
    detector_names = {id(tensor): name for name, tensor in _tensors(detector).items()}
    plain = _plain_state(network)
    return {name: detector_names[id(tensor)] for name, tensor in plain.items() if id(tensor) in detector_names}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors, without the attention that its modules carry because the detector shares them."""
    attention = tuple(f"{site.name}.attention." for site in attended_modules(network))
    state = network.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if not name.startswith(attention)}


def _attention_names(detector: DetectorModule, sites: Mapping[str, str]) -> dict[str, str]:
    modules = attended(detector)
    return {
        f"{site}.attention.{key}": f"{detector_site}.attention.{key}"
        for site, detector_site in sites.items()
        for key in modules[detector_site].state_dict()
    }
