"""The other ways through a network that its library offers, on which attention must run as well."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bam.coverage.row import Failure
from bam.private import feature_extractor
from bam.surgery import attended, detach


def check_ways(library: str, model: nn.Module, images: Tensor) -> str:
    """Run the attended network in every other way the library offers; "no other" if there is none."""
    if library == "torchvision":
        return _extraction(model, images)
    tried = 0
    for name, prepare in _OTHER_WAYS.items():
        try:
            prepare(detach(copy.deepcopy(model)))
        except (AttributeError, NotImplementedError, AssertionError):  # timm's sign that a network lacks this way
            continue
        network = copy.deepcopy(model)
        way = prepare(network)
        runs: Counter[str] = Counter({site: 0 for site in attended(network)})
        for site, module in attended(network).items():
            module.register_forward_pre_hook(lambda *_, runs=runs, site=site: runs.update([site]))
        way(images)
        if set(runs.values()) != {1}:
            raise Failure(f"{name} runs attention " + ", ".join(f"{n} times at {site}" for site, n in runs.items()))
        tried += 1
    return "pass" if tried else "no other"


def _checkpointed(network: Any) -> Callable[[Tensor], Any]:
    network.train().set_grad_checkpointing(True)
    return network


#: Another way through a timm network -> function that returns it for a network.
_OTHER_WAYS: dict[str, Callable[[Any], Callable[[Tensor], Any]]] = {
    "forward_intermediates": lambda network: network.forward_intermediates,
    "features_only": lambda network: feature_extractor("getter")(network).eval(),
    "gradient checkpointing": _checkpointed,
}


def _node(name: str, nodes: set[str]) -> str:
    """The module `name`, or the one around it if torchvision does not look into that: Conv2dNormActivation."""
    parts = name.split(".")
    around = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((module for module in around if module in nodes), name)


def _extraction(model: nn.Module, images: Tensor) -> str:
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    nodes = set(get_graph_node_names(model)[1])
    names = list(dict.fromkeys(_node(name.removeprefix("before "), nodes) for name in attended(model)))
    outputs: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda *values, name=name: outputs.update({name: values[-1].clone()})
        )
        for name in names
    ]
    with torch.no_grad():
        model(images)
        for hook in hooks:
            hook.remove()
        extracted = create_feature_extractor(model, names)(images)
    for name in names:
        if not torch.equal(extracted[name], outputs[name]):
            raise Failure(f"create_feature_extractor returns another map at {name}")
    return "pass"
