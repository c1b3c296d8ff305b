"""Tensors from files that somebody else wrote: read without running anything, and held against a network's own."""

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
        ImportError: without safetensors.
    """
    _need_file(path)
    library = safetensors()
    try:
        with library.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
    except (library.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no .safetensors file: {error}") from None


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote to a file: tensors on the CPU, numbers, strings and containers of them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or reading it would take more than that; nothing of it is then executed.
    """
    _need_file(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats and archives of code, which are refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # a damaged pickle may raise anything at all
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            lines = str(error).strip().splitlines() or [""]
            told = next((line for line in lines if "WeightsUnpickler error" in line), lines[0]).strip()
            raise ValueError(f"{path} is damaged, or no file of torch.save: {type(error).__name__} {told}") from None
        raise ValueError(
            f"{path} wants to run {wanted[1]!r} while it is read, and only tensors are read from files; to trust it: "
            'torch.save(torch.load(path, weights_only=False)["state_dict"], "weights.pth"), and load that'
        ) from None


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Give `network` its tensors, all of them and no others; a ValueError says how those of `path` differ."""
    state = network.state_dict()  # with the versions of its modules: some ask for them, and files of tensors lack them
    check_fit(state, tensors, path, name)
    state.update(tensors)
    network.load_state_dict(state)


def check_fit(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: Path | str, network: str) -> None:
    """Raise a ValueError that lists how the tensors of `source` differ from a network's own in name, shape or kind."""
    misfits = [
        f"{key} {'meta ' * given[key].is_meta}{_kind(given[key])} (the network has {_kind(own[key])})"
        for key in own
        if key in given and not is_like(given[key], own[key])
    ]
    problems = {
        "missing": [key for key in own if key not in given],
        "unknown": [key for key in given if key not in own],
        "of another shape or type": misfits,
    }
    told = [f"{title}: {listed(names)}" for title, names in problems.items() if names]
    if told:
        raise ValueError(f"{source} does not fit {network}; {'; '.join(told)}")


def is_like(given: Tensor, own: Tensor) -> bool:
    """Whether `given` may be copied into `own`: of its shape, floating point of any precision or of the same type."""
    alike = given.dtype == own.dtype or (given.is_floating_point() and own.is_floating_point())
    return alike and given.shape == own.shape and given.layout == torch.strided and not given.is_meta


def _kind(tensor: Tensor) -> str:
    unusual = [str(tensor.dtype)] if tensor.dtype != torch.float32 else []
    unusual += [str(tensor.layout)] if tensor.layout != torch.strided else []
    return " ".join([*(word.removeprefix("torch.") for word in unusual), str(tuple(tensor.shape))])


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names in a sentence."""
    words = [str(name) for name in names]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def safetensors() -> Any:
    """The library; an ImportError that says what to install if it is missing."""
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError("this needs safetensors: pip install 'bottleneck-attention[train]'") from None
    return safetensors


def _need_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
