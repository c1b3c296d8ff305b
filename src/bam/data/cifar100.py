"""CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 x 32 pixels in 100 classes."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bam.data.cifar_pickle import read_arrays
from bam.data.dataset import Dataset

_FOLDER = "cifar-100-python"


@functools.lru_cache(maxsize=1)  # the runs of a comparison share it
def cifar100(root: Path) -> tuple[Dataset, Dataset]:
    """Return (train, test) from `root`/cifar-100-python or `root` itself; torchvision downloads it if it is absent.

    The files are pickles, but nothing unpickles them: `bam.data.cifar_pickle` reads arrays and plain containers.
    Any copy whose arrays have the right structure will do.

    Raises:
        FileNotFoundError: if the folder is absent and cannot be downloaded, or if a file is missing.
        ValueError: for a file that is truncated or not CIFAR-100's.
    """
    folder = root if (root / "train").is_file() else root / _FOLDER
    if not folder.is_dir():
        _download(root, folder)
    meta = _read(folder / "meta")
    names = meta.get("fine_label_names")
    if not isinstance(names, list) or len(names) != 100:
        raise _not_cifar(folder / "meta", "it does not list 100 fine_label_names")
    return _dataset(folder / "train", names), _dataset(folder / "test", names)


def _dataset(path: Path, names: list[str]) -> Dataset:
    batch = _read(path)
    data, labels = batch.get("data"), batch.get("fine_labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise _not_cifar(path, "it has no uint8 array 'data' of shape (n, 3072)")
    try:
        targets = torch.as_tensor(np.asarray(labels if labels is not None else [], dtype=np.int64))
    except (ValueError, TypeError, OverflowError):
        targets = torch.empty(0)
    if len(data) == 0 or targets.shape != (len(data),) or targets.min() < 0 or targets.max() > 99:
        raise _not_cifar(path, "it has no 'fine_labels', one from 0 to 99 per image")
    images = torch.from_numpy(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy())
    return Dataset(images, targets, tuple(names))


def _download(root: Path, folder: Path) -> None:
    from torchvision.datasets import CIFAR100

    try:
        CIFAR100(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"CIFAR-100 is not at {folder} and could not be downloaded ({error}). Unpack cifar-100-python.tar.gz "
            f"(https://www.cs.toronto.edu/~kriz/cifar.html) into {root}, or give the folder that holds {_FOLDER} as "
            f"--data-root or BAM_DATA"
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_arrays(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: {path.parent} is not a complete copy of CIFAR-100") from None
    except ValueError as error:
        raise ValueError(
            f"{path} is truncated or not a CIFAR-100 file ({error}); replace it with a fresh copy"
        ) from None
    if not isinstance(content, dict):
        raise _not_cifar(path, f"it holds a {type(content).__name__}, not a dictionary")
    return content


def _not_cifar(path: Path, problem: str) -> ValueError:
    return ValueError(f"{path} is not a CIFAR-100 file: {problem}; replace it with a fresh copy")
