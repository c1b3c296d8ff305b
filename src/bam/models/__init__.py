"""Build networks by name: reference networks that torchvision lacks, and the networks of torchvision and timm."""

import inspect
from typing import Any

from torch import nn

from bam.models.pretrained import classifier_name, classifier_names, load_pretrained
from bam.models.reference import MODELS, Network
from bam.objects import load_object

__all__ = ["MODELS", "Network", "build", "classifier_name", "classifier_names", "load_pretrained"]


def build(name: str, num_classes: int | None = None, *, drop_path: float = 0.0) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: a name in `MODELS`, a torchvision name, "timm/<name>", or "<module>:<function>" for your own network: the
            function returns the network, and gets `num_classes` if it has that parameter.
        num_classes: outputs of the network; default: its own, 100 for cifar/ and 1000 for paper/ and imagenet/.
        drop_path: probability of skipping the last block in training (stochastic depth, arXiv 1603.09382); it falls
            towards the first block. Only for torchvision and timm networks that support it.

    Raises:
        ValueError: for an unknown name (the message lists similar ones), fewer than one class, or `drop_path` for a
            network that does not support it.
        ImportError: for a timm name without timm installed.
    """
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    classes: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if drop_path:
        return _build_with_drop_path(name, classes, drop_path)
    if ":" in name:
        return _build_with_function(name, classes)
    if name in MODELS:
        builder = MODELS[name]
        return builder(getattr(builder, "num_classes", 100) if num_classes is None else num_classes)
    if name.startswith("timm/"):
        try:
            import timm
        except ImportError:
            raise ImportError(f"{name!r} needs timm: pip install 'bottleneck-attention[timm]'") from None
        if not timm.is_model(name.removeprefix("timm/")):
            raise ValueError(_unknown(name, [f"timm/{known}" for known in timm.list_models()]))
        return timm.create_model(name.removeprefix("timm/"), **classes)
    from torchvision.models import get_model, get_model_builder, list_models

    if name not in list_models():
        raise ValueError(_unknown(name, [*MODELS, *list_models()]))
    rescales = name in ("googlenet", "inception_v3")  # as with their published weights
    options: dict[str, Any] = {"init_weights": True, "transform_input": True} if rescales else {}
    if "weights_backbone" in inspect.signature(get_model_builder(name)).parameters:
        options["weights_backbone"] = None  # by default, detectors and segmentation networks download them
    return get_model(name, **classes, **options)


def _build_with_function(name: str, classes: dict[str, int]) -> nn.Module:
    builder = load_object(name, "<module>:<function>, e.g. my_networks:small_net")
    parameters = inspect.signature(builder).parameters
    model = builder(**(classes if "num_classes" in parameters else {}))
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name!r} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _build_with_drop_path(name: str, classes: dict[str, Any], drop_path: float) -> nn.Module:
    try:
        if name.startswith("timm/"):
            import timm

            return timm.create_model(name.removeprefix("timm/"), drop_path_rate=drop_path, **classes)
        from torchvision.models import get_model

        return get_model(name, stochastic_depth_prob=drop_path, **classes)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"drop_path: {name} has no stochastic depth ({error}); leave it at 0") from None


def _unknown(name: str, names: list[str]) -> str:
    import difflib

    similar = ", ".join(difflib.get_close_matches(name, names, n=5, cutoff=0.4)) or ", ".join(names[:5])
    known = f"{', '.join(MODELS)}, torchvision's names, timm/<name> and <module>:<function>"
    return f"unknown model {name!r}; near: {similar}. Known names: {known}"
