"""The trained network of a run, and its training images."""

from pathlib import Path

import torch
from torch import Tensor, nn

from bam.data import epoch_generator, load
from bam.recipes import Recipe
from bam.records import Record
from bam.tasks import task_of
from bam.tensors import load_tensors, read_safetensors
from bam.training.session import WEIGHTS


def trained_model(folder: Path) -> tuple[nn.Module, Record]:
    """The network of a complete run, on the CPU in eval mode, and the run's record.

    Raises:
        FileNotFoundError: if `folder` holds no complete run.
        ValueError: if the record or the weights are damaged.
    """
    if not (folder / WEIGHTS).exists():
        raise FileNotFoundError(f"{folder} holds no complete run: {WEIGHTS} is missing")
    record = Record.read(folder)
    recipe = Recipe.from_dict(record.recipe)
    if record.sites and recipe.attention.sites is None:  # the usual sites of an earlier version may have been others
        recipe = recipe.replace(sites=record.sites)
    model = task_of(recipe).network(record, to_train=False)
    load_tensors(model, read_safetensors(folder / WEIGHTS)[0], folder / WEIGHTS, "the run's recipe")
    return model.eval(), record


def training_images(record: Record, data_root: Path | None = None, count: int = 256) -> Tensor:
    """A random sample of a run's training images (count, 3, H, W), normalised as in training but not augmented."""
    train, _ = load(record.recipe["data"], data_root, **record.recipe["data_options"])
    indices = torch.randperm(len(train), generator=epoch_generator(record.recipe["seed"], 0))[:count]
    if record.normalization:
        mean, std = (255 * torch.tensor(record.normalization[name]) for name in ("mean", "std"))
    else:  # a record of an earlier version
        mean, std = train.normalization()
    images, _ = next(train.subset(indices).batches(count, (mean, std)).test())
    return images
