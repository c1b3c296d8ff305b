"""Passes over labelled images, with checked batches, in eval mode, leaving the network unchanged."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bam.attention.contract import AttentionMaps
from bam.explanation.recording import record

#: Batches of normalised images (N, 3, H, W) and classes (N,).
Batches = Iterable[tuple[Tensor, Tensor]]
NOTHING_RUNS = "none of the network's attention runs: it is switched off, or these images do not pass through it"


@dataclass(frozen=True)
class Batch:
    """A checked batch on the network's device."""

    first: int  #: index of its first image in the data set
    images: Tensor  #: (N, 3, H, W)
    classes: Tensor  #: int64 (N,)

    def part(self, values: Tensor) -> Tensor:
        """This batch's rows of `values` (n, ...), which has one row per image of the data set."""
        return values[self.first : self.first + len(self.images)].to(self.images.device)


@contextlib.contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Eval mode in this context; afterwards every module has its previous mode."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def checked(network: nn.Module, batches: Batches) -> Iterator[Batch]:
    """The batches on the network's device.

    Raises:
        ValueError: for a batch that is not images (N, 3, H, W) with classes (N,), a value that is not finite, or if
            there are no images.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    first = 0
    for images, classes in batches:
        if images.dim() != 4 or classes.shape != images.shape[:1] or classes.is_floating_point():
            shapes = f"{tuple(images.shape)} and {tuple(classes.shape)}, {classes.dtype}"
            raise ValueError(f"a batch must be images (N, 3, H, W) and class numbers (N,), got {shapes}")
        require_finite(images, f"the images from number {first} on")
        if len(images):
            yield Batch(first, images.to(device), classes.to(device).long())
        first += len(images)
    if not first:
        raise ValueError("there are no images to examine")


def watched(network: nn.Module, batches: Batches) -> Iterator[tuple[Batch, Tensor, dict[str, AttentionMaps]]]:
    """Each batch with the network's logits (N, K) and its attention maps by site.

    The network's state is restored between batches.

    Raises:
        ValueError: as `checked` and `class_logits`; without attention, or for a map that is not finite.
    """
    for batch in checked(network, batches):
        with undisturbed(network), torch.no_grad(), record(network) as passes:
            logits = class_logits(network, batch.images, batch.classes)
        if not passes:
            raise ValueError(NOTHING_RUNS)
        for site, maps in passes[0].items():
            for name in ("gain", "channel_logits", "spatial_logits", "combined"):
                if (values := getattr(maps, name)) is not None:
                    require_finite(values, f"the attention at {site} ({name.replace('_', ' ')})")
        yield batch, logits, passes[0]


def class_logits(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """The network's output (N, K) for images whose true classes are `classes`.

    Raises:
        ValueError: if the network does not classify these classes, or its output is not finite.
    """
    logits = network(images)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network must return logits (N, classes), one row per image; it returned {got}")
    if classes.min() < 0 or classes.max() >= logits.shape[1]:
        raise ValueError(
            f"class {int(classes.max() if classes.min() >= 0 else classes.min())} is not one of the network's "
            f"{logits.shape[1]} outputs"
        )
    require_finite(logits, "the network's output")
    return logits


def require_finite(values: Tensor, what: str) -> None:
    """Raise a ValueError that names `what` if a value is infinite or NaN."""
    if not values.isfinite().all():
        raise ValueError(f"{what}: not all values are finite, so there are no results for this network")
