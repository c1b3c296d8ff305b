"""Training tasks: independent packages, each removable and imported on demand."""

import importlib
from collections.abc import Iterator

from bam.recipes import Recipe
from bam.tasks.task import Classes, Evaluation, Price, Subject, Task, count_classes

#: Task name -> module and class.
TASKS = {
    "classification": "bam.tasks.classification.task:Classification",
    "detection": "bam.tasks.detection.task:Detection",
}


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
    """The task that provides the network `model`; classification if no task claims it."""
    return next((task for task in available_tasks() if task.knows(model)), task_class("classification"))


__all__ = [
    "TASKS", "Classes", "Evaluation", "Price", "Subject", "Task", "available_tasks", "count_classes", "task_class",
    "task_knowing", "task_of",
]  # fmt: skip
