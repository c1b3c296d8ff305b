"""Networks by name: the reference networks that torchvision lacks, and doors to torchvision and timm."""

from collections.abc import Callable

from torch import nn

from bam.models import cifar

#: Name -> builder(num_classes). torchvision's and timm's networks come by their own names, see `build`.
MODELS: dict[str, Callable[[int], nn.Module]] = {
    "cifar/resnet8": lambda classes: cifar.SmallResNet(1, classes),
    "cifar/resnet20": lambda classes: cifar.SmallResNet(3, classes),
    "cifar/resnet18": lambda classes: cifar.from_torchvision("resnet18", classes),
    "cifar/resnet50": lambda classes: cifar.from_torchvision("resnet50", classes),
}


def build(name: str, num_classes: int) -> nn.Module:
    """Build a network with random weights: a name in `MODELS`, torchvision's name, or "timm/<name>".

    Raises:
        ValueError: for an unknown name, with the nearest known ones.
        ImportError: for a timm name without timm installed.
    """
    if name in MODELS:
        return MODELS[name](num_classes)
    if name.startswith("timm/"):
        try:
            import timm
        except ImportError:
            raise ImportError(f"{name!r} needs timm: pip install 'bottleneck-attention[timm]'") from None
        if not timm.is_model(name.removeprefix("timm/")):
            raise ValueError(_unknown(name, [f"timm/{known}" for known in timm.list_models()]))
        return timm.create_model(name.removeprefix("timm/"), num_classes=num_classes)
    from torchvision.models import get_model, list_models

    if name not in list_models():
        raise ValueError(_unknown(name, [*MODELS, *list_models()]))
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return get_model(name, num_classes=num_classes, **options)


def _unknown(name: str, known: list[str]) -> str:
    import difflib

    near = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.4)) or ", ".join(known[:5])
    return f"unknown model {name!r}; near: {near}. Known are {', '.join(MODELS)}, torchvision's names and timm/<name>"
