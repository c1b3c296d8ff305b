"""The trained network of a run, and its training images."""

from pathlib import Path

import torch
from torch import Tensor, nn

from bam.data import epoch_generator, load
from bam.data.files.preprocessing import Preprocessing
from bam.data.folder.options import FolderOptions
from bam.objects import refuse_code
from bam.recipes import Recipe
from bam.records import FILE_NAME, Record
from bam.tasks import Task, Trained, task_of
from bam.tensors import load_tensors, read_safetensors
from bam.training.session import WEIGHTS


def trained_model(folder: Path) -> tuple[nn.Module, Record]:
    """The network of a complete run, on the CPU in eval mode, and the run's record.

    Raises:
        FileNotFoundError: if `folder` holds no complete run.
        ValueError: if the record or the weights are damaged, or the record names code that the user did not.
    """
    if not (folder / WEIGHTS).exists():
        raise FileNotFoundError(f"{folder} holds no complete run: {WEIGHTS} is missing")
    record = Record.read(folder)
    recipe = recipe_of(record, folder)
    if record.sites and recipe.attention.sites is None:  # default sites may have changed since
        recipe = recipe.replace(sites=record.sites)
    model = task_of(recipe).network(record, to_train=False)
    load_tensors(model, read_safetensors(folder / WEIGHTS)[0], folder / WEIGHTS, "the run's recipe")
    return model.eval(), record


def recipe_of(record: Record, folder: Path) -> Recipe:
    """The recipe of a record read from `folder`, from which a network may be built.

    Raises:
        ValueError: if it is not a recipe, or names code that the user did not, see `bam.objects.trusting_code`.
    """
    recipe = Recipe.from_dict(record.recipe)
    refuse_code(recipe.named_code, folder / FILE_NAME)
    return recipe


def opened_run(folder: Path, device: torch.device) -> tuple[Task, Trained, Record]:
    """The task of a complete run, its network ready for use on `device`, and its record.

    Raises:
        FileNotFoundError: if `folder` holds no complete run.
        ValueError: if the record or the weights are damaged, or from a version that recorded no normalisation.
    """
    network, record = trained_model(folder)
    trained = Trained.ready(network, record.classes, preprocessing_of(record), device)
    return task_of(recipe_of(record, folder)), trained, record


def preprocessing_of(record: Record) -> Preprocessing:
    """The preprocessing that the network of a run expects.

    Raises:
        ValueError: if the record has no normalisation, as in early versions of bam.
    """
    if "mean" not in record.normalization:
        network = "bam.training.trained_model(run)[0]"
        backbone = record.recipe["model"]
        advice = f"bam.export.save_pretrained({network}, folder, backbone={backbone!r}, mean=..., std=...)"
        raise ValueError(
            f"the run is from an earlier version of bam, which did not record its normalisation; save it with {advice}"
        )
    height, width = record.image_size
    resize = max(height, width)
    if record.recipe["data"].startswith("folder:"):
        resize = FolderOptions.read(record.recipe["data_options"]).shorter_side
    return Preprocessing(record.normalization["mean"], record.normalization["std"], (height, width), resize)


def training_images(record: Record, data_root: Path | None = None, count: int = 256) -> Tensor:
    """A random sample of a run's training images (count, 3, H, W), normalised as in training but not augmented."""
    train, _ = load(record.recipe["data"], data_root, **record.recipe["data_options"])
    indices = torch.randperm(len(train), generator=epoch_generator(record.recipe["seed"], 0))[:count]
    if record.normalization:
        mean, std = (255 * torch.tensor(record.normalization[name]) for name in ("mean", "std"))
    else:  # a record from an earlier version
        mean, std = train.normalization()
    images, _ = next(train.subset(indices).batches(count, (mean, std)).test())
    return images
