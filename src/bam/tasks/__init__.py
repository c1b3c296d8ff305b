"""What a network is trained for: equal rooms, each removable, each imported when it is asked for."""

import importlib
from collections.abc import Iterator

from bam.recipes import Recipe
from bam.tasks.task import Classes, Evaluation, Price, Subject, Task, count_classes

#: Name -> where its class is.
TASKS = {
    "classification": "bam.tasks.classification.task:Classification",
    "detection": "bam.tasks.detection.task:Detection",
}


def task_class(name: str) -> type[Task]:
    """The task by its name.

    Raises:
        ValueError: for an unknown name.
        ImportError: if the task, or a package that it needs, is not installed.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    module, _, attribute = TASKS[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ImportError(f"the task {name} is not available here: {error}") from error


def task_of(recipe: Recipe) -> Task:
    """The task of a recipe, which it holds."""
    return task_class(recipe.task)(recipe)


def available_tasks() -> Iterator[type[Task]]:
    """The tasks that can be imported."""
    for name in TASKS:
        try:
            yield task_class(name)
        except ImportError:  # whoever needs that one is told so by name
            continue


def task_knowing(model: str) -> type[Task]:
    """The task that alone builds the network `model`; classification for all others."""
    return next((task for task in available_tasks() if task.knows(model)), task_class("classification"))


__all__ = [
    "TASKS", "Classes", "Evaluation", "Price", "Subject", "Task", "available_tasks", "count_classes", "task_class",
    "task_knowing", "task_of",
]  # fmt: skip
