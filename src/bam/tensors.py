"""Read tensors from untrusted files without executing code, and check that they fit a network."""

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, on the CPU, and its metadata.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
        ImportError: if safetensors is not installed.
    """
    _need_file(path)
    library = safetensors()
    try:
        with library.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
    except (library.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or not a .safetensors file: {error}") from None


def read_pickle(path: Path) -> Any:
    """The content of a `torch.save` file: tensors, on the CPU, numbers, strings and containers of them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or contains anything else; no code in it is executed.
    """
    _need_file(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats and TorchScript archives, which are refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # a damaged pickle may raise any exception
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            lines = str(error).strip().splitlines() or [""]
            reason = next((line for line in lines if "WeightsUnpickler error" in line), lines[0]).strip()
            raise ValueError(
                f"{path} is damaged, or not a file from torch.save: {type(error).__name__} {reason}"
            ) from None
        raise ValueError(
            f"{path} would run {refused[1]!r} when read, but only tensors are read from files; if you trust it, run "
            'torch.save(x, "weights.pth") with x = torch.load(path, weights_only=False).state_dict() for a whole '
            'network, or x = torch.load(path, weights_only=False)["state_dict"] for a checkpoint, and load that file'
        ) from None


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Load `tensors`, read from `path`, into `network`, which is called `name` in messages.

    Raises:
        ValueError: if names, shapes or types differ from the network's.
    """
    state = network.state_dict()  # has version metadata that some modules need and tensor files lack
    check_fit(state, tensors, path, name)
    state.update(tensors)
    network.load_state_dict(state)


def check_fit(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: Path | str, network: str) -> None:
    """Raise a ValueError that lists how the tensors of `source` differ from a network's in name, shape or type."""
    misfits = [
        f"{key} {'meta ' * tensors[key].is_meta}{_kind(tensors[key])} (the network has {_kind(state[key])})"
        for key in state
        if key in tensors and not is_like(tensors[key], state[key])
    ]
    problems = {
        "missing": [key for key in state if key not in tensors],
        "unknown": [key for key in tensors if key not in state],
        "of another shape or type": misfits,
    }
    messages = [f"{title}: {listed(names)}" for title, names in problems.items() if names]
    if messages:
        raise ValueError(f"{source} does not fit {network}; {'; '.join(messages)}")


def is_like(source: Tensor, target: Tensor) -> bool:
    """Whether `source` can be copied into `target`: same shape, and the same type or any two floating-point types."""
    same_kind = source.dtype == target.dtype or (source.is_floating_point() and target.is_floating_point())
    return same_kind and source.shape == target.shape and source.layout == torch.strided and not source.is_meta


def _kind(tensor: Tensor) -> str:
    unusual = [str(tensor.dtype)] if tensor.dtype != torch.float32 else []
    unusual += [str(tensor.layout)] if tensor.layout != torch.strided else []
    return " ".join([*(word.removeprefix("torch.") for word in unusual), str(tuple(tensor.shape))])


def listed(names: Iterable[object], most: int = 12) -> str:
    """At most `most` names, separated by commas, and the number of further names."""
    words = [str(name) for name in names]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def safetensors() -> Any:
    """Import the safetensors library; the ImportError says what to install."""
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError("this needs safetensors: pip install 'bottleneck-attention[train]'") from None
    return safetensors


def _need_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
