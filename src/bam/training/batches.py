"""The batches of a run, and whether their size fits the data and the processes."""

import contextlib
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bam.data import BatchSource
from bam.data.interface import Images
from bam.tasks import Task

_SMALL = 64  #: images up to this side, in pixels, are evaluated in larger batches than in training


def training_batches(
    task: Task, images: Images, normalization: tuple[Tensor, Tensor], accelerator: Accelerator
) -> BatchSource:
    """The batches to train on, each of `batch_size / accumulation` images over all processes.

    Raises:
        ValueError: if that does not fit the number of images or processes.
    """
    recipe, processes = task.recipe, accelerator.num_processes
    size = recipe.batch_size // recipe.accumulation
    if recipe.batch_size > len(images):
        raise ValueError(f"batch_size {recipe.batch_size} is larger than the {len(images)} training images")
    if size % processes:
        raise ValueError(f"batch_size {size} (after accumulation) is not a multiple of the {processes} processes")
    return task.batches(images, size, normalization, _place(accelerator))


def evaluation_batches(
    task: Task, images: Images, normalization: tuple[Tensor, Tensor], accelerator: Accelerator
) -> BatchSource:
    """The batches to evaluate on.

    Raises:
        ValueError: if there are fewer images than processes.
    """
    if len(images) < accelerator.num_processes:
        raise ValueError(f"{len(images)} images are too few for {accelerator.num_processes} processes to evaluate on")
    size = task.recipe.batch_size // task.recipe.accumulation
    size = size if max(images.image_size) > _SMALL else max(size, 256)
    return task.batches(images, size, normalization, _place(accelerator))


def sample(task: Task, network: nn.Module, images: Images, size: int, device: torch.device) -> tuple[Any, Any]:
    """The first batch of at most `size` training images, for measurements."""
    place = device, (0, 1)
    batches = task.batches(images, min(size, len(images)), task.normalization(network, images), place)
    with contextlib.closing(batches.train(task.recipe.seed, 0)) as stream:  # ends the decoding processes
        return next(stream)


def _place(accelerator: Accelerator) -> tuple[torch.device, tuple[int, int]]:
    """Device, and (rank, number of processes)."""
    return accelerator.device, (accelerator.process_index, accelerator.num_processes)
