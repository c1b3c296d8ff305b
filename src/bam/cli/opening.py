"""Open the network a verb works on: a run's, one saved by bam export, or one given by name."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bam.cli.named import NOTHING_NAMED, NamedNetwork, build_named, untrained
from bam.recipes import Recipe

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bam.export import NetworkDescription
    from bam.records import Record
    from bam.tasks import Task, Trained


class Opened(NamedTuple):
    """A network ready for use."""

    task: "Task"
    trained: "Trained"
    record: "Record | None"  #: None unless the network comes from a run
    notes: list[str]  #: messages for the user


def opened(run: Path, named: NamedNetwork, device: "torch.device") -> Opened:
    """The network in the folder `run`, or the network with that name.

    Raises:
        ValueError, OSError: if there is no such network, or the flags do not match it.
    """
    from bam.export.config import CONFIG, config_of
    from bam.export.description import describe_saved
    from bam.export.pretrained import from_pretrained
    from bam.records import FILE_NAME
    from bam.training import opened_run

    is_run, is_saved = ((run / name).exists() for name in (FILE_NAME, CONFIG))
    if (is_run or is_saved) and named != NOTHING_NAMED:
        raise ValueError(f"{run} is a folder with its own attention, weights and classes: drop those flags")
    if is_run:
        return Opened(*opened_run(run, device), [])
    if is_saved:
        network = from_pretrained(run)
        config = config_of(network)
        assert config is not None
        return Opened(*_ready(config.backbone, network, describe_saved(network), device), None, [])
    if named == NOTHING_NAMED:
        if run.is_dir():
            raise FileNotFoundError(f"{run} holds no complete run ({FILE_NAME}) and no saved network ({CONFIG})")
        raise ValueError(
            f"there is no folder {run}; to use a network by name, give its weights: --pretrained for the network and "
            "--adapter for its attention, or --weights for both, with --attention"
        )
    network, description = build_named(run.as_posix(), named)
    return Opened(*_ready(run.as_posix(), network, description, device), None, untrained(named))


def _ready(
    backbone: str, network: "nn.Module", description: "NetworkDescription", device: "torch.device"
) -> "tuple[Task, Trained]":
    from bam.data.files.preprocessing import Preprocessing
    from bam.tasks import Trained, task_knowing

    size: Any = description["image_size"]
    normalization = description["mean"] or (), description["std"] or ()
    preprocessing = Preprocessing(*normalization, (size[0], size[1]), description.get("resize") or max(size))
    kind = task_knowing(backbone)
    task = kind(Recipe.from_dict({"task": kind.name, "model": backbone}))
    return task, Trained.ready(network, description["classes"], preprocessing, device)


def check_question(run: Path, task: "Task", trained: "Trained", question: str | None) -> list[str]:
    """Notes on a question: its words that did not occur in training.

    Raises:
        ValueError: if a network that answers questions gets none, or any other network gets one.
    """
    if task.asks and not question:
        raise ValueError(f'{run} answers questions, so ask one: --question "how many 3s are there"')
    if question is not None and not task.asks:
        raise ValueError(f"{run} is a {task.name} network and does not answer questions: drop --question")
    unknown = task.unknown_words(trained, question) if question else []
    return [f"words that did not occur in training: {', '.join(unknown)}"] if unknown else []
