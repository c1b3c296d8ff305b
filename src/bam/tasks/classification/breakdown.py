"""A classifier's errors, class by class."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from bam.records import TEST_ERROR, TEST_ERROR_TOP5, Breakdown, ClassResult
from bam.tasks.classification.network import class_logits

_TOP = 5


@torch.no_grad()
def break_down(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], classes: Sequence[str]) -> Breakdown:
    """Top-1 and (for more than 5 classes) top-5 errors, and the confusion matrix; all `classes` compete.

    Raises:
        ValueError: if the network has another number of outputs, or they are not finite.
    """
    network.eval()
    count = len(classes)
    confusion = torch.zeros(count * count, dtype=torch.int64)
    top5_errors = 0
    for images, targets in batches:
        logits = class_logits(network(images)).float().cpu()
        _check(logits, count)
        truth = targets.cpu()
        confusion += torch.bincount(truth * count + logits.argmax(1), minlength=count * count)
        top5_errors += int((logits.topk(min(_TOP, count)).indices != truth[:, None]).all(1).sum())
    return _summed(confusion.view(count, count), top5_errors, classes)


def _check(logits: Tensor, count: int) -> None:
    if logits.shape[1] != count:
        raise ValueError(f"the network has {logits.shape[1]} outputs, but the data have {count} classes")
    if not logits.isfinite().all():
        raise ValueError("the network's output is not finite: its weights are damaged")


def _summed(confusion: Tensor, top5_errors: int, classes: Sequence[str]) -> Breakdown:
    """The breakdown of a confusion matrix (true class, predicted class), in numbers of images."""
    counts, total = confusion.sum(1), int(confusion.sum())
    wrong = counts - confusion.diagonal()
    present = [number for number in range(len(classes)) if counts[number]]
    errors = {TEST_ERROR.key: int(wrong.sum())}
    if len(classes) > _TOP:
        errors[TEST_ERROR_TOP5.key] = top5_errors
    return Breakdown(
        num_images=total,
        measures=[measure for measure in (TEST_ERROR, TEST_ERROR_TOP5) if measure.key in errors],
        figures={key: value / total for key, value in errors.items()},
        unit="images",
        classes=[ClassResult(classes[k], int(counts[k]), int(wrong[k])) for k in present],
        errors=errors,
        predicted=list(classes),
        confusion=[confusion[k].tolist() for k in present],
    )
