"""One call of a torch function in the recorded flow through a network."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

_MIXERS = ("pool", "interpolate", "matmul", "bmm", "einsum", "attention", "lstm", "gru", "rnn", "roll", "fft")


@dataclass(frozen=True)
class Operation:
    """A torch function with the arguments of one call."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The function's name: "conv2d", "permute", "__getitem__"."""
        return getattr(self.function, "__name__", str(self.function))

    @property
    def mixes_places(self) -> bool:
        """Whether an output value depends on several places of the input map.

        True for convolutions larger than 1 x 1, pooling and self-attention, among others.
        """
        if "conv" in self.name:
            weight = self.kwargs.get("weight", self.args[1] if len(self.args) > 1 else None)
            return not isinstance(weight, Tensor) or any(side > 1 for side in weight.shape[2:])
        return any(word in self.name for word in _MIXERS)
