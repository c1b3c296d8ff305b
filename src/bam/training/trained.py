"""The network that a run has trained, and images as it saw them."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bam.data import Batches, load
from bam.recipes import Recipe
from bam.records import Record
from bam.training.session import WEIGHTS, build_model


def trained_model(folder: Path) -> tuple[nn.Module, Record]:
    """The network of a complete run, on the CPU and in eval mode, and the run's record.

    Raises:
        FileNotFoundError: if `folder` holds no complete run.
        ValueError: if its record or its weights are damaged.
    """
    if not (folder / WEIGHTS).exists():
        raise FileNotFoundError(f"{folder} holds no complete run: {WEIGHTS} is missing")
    record = Record.read(folder)
    height, width = record.image_size
    model = build_model(Recipe(**record.recipe), record.num_classes, (height, width))
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{folder / WEIGHTS} does not fit the run's recipe or is damaged: {reason}") from None
    return model.eval(), record


def training_images(record: Record, data_root: Path | None = None, count: int = 256) -> Tensor:
    """Random training images of a run's data, (count, 3, H, W), normalised as in training, not augmented."""
    train, _ = load(record.recipe["data"], data_root, **record.recipe["data_options"])
    images, _ = next(Batches(train, min(count, len(train)), train.statistics()).train(record.recipe["seed"], 0))
    return images
