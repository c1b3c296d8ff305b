"""Training tasks: independent packages, each removable and imported on demand."""

import importlib
from collections.abc import Iterator

from bam.recipes import Recipe
from bam.tasks.task import (
    Classes,
    Evaluation,
    PredictOptions,
    Price,
    Subject,
    Task,
    Trained,
    count_classes,
)

#: Task name -> module and class.
TASKS = {
    "classification": "bam.tasks.classification.task:Classification",
    "detection": "bam.tasks.detection.task:Detection",
    "vqa": "bam.tasks.vqa.task:Vqa",
}


#: Task -> the networks that only it can build; listed here so that they are known even without the task.
NETWORKS = {
    "detection": (
        "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet101_fpn", "fasterrcnn_mobilenet_v3_large_fpn",
        "retinanet_resnet50_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "ssd300_mobilenet",
        "stairnet300_vgg16", "stairnet300_mobilenet", "ssd_resnet8", "ssd_resnet20",
    ),
}  # fmt: skip


def task_class(name: str) -> type[Task]:
    """The task class with this name.

    Raises:
        ValueError: for an unknown name.
        ImportError: if the task, or a package it needs, is not installed.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    module, _, attribute = TASKS[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ImportError(f"the task {name} is not available here: {error}") from error


def task_of(recipe: Recipe) -> Task:
    """The task for a recipe."""
    return task_class(recipe.task)(recipe)


def available_tasks() -> Iterator[type[Task]]:
    """The tasks that can be imported."""
    for name in TASKS:
        try:
            yield task_class(name)
        except ImportError:  # `task_class` reports it to callers who ask for this task
            continue


def task_knowing(model: str) -> type[Task]:
    """The task that builds the network `model`: the only one that can, or else classification.

    Raises:
        ImportError: if that task is not installed.
    """
    return task_class(next((name for name, models in NETWORKS.items() if model in models), "classification"))


__all__ = [
    "NETWORKS", "TASKS", "Classes", "Evaluation", "PredictOptions", "Price", "Subject", "Task", "Trained",
    "available_tasks", "count_classes", "task_class", "task_knowing", "task_of",
]  # fmt: skip
