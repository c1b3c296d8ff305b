"""The linear probe: what a linear classifier of a pretrained network's frozen features reaches."""

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from bam.data import LabelledImages
from bam.models import classifier_name
from bam.recipes import ClassificationRecipe
from bam.tasks.classification.network import build_model, pixel_normalization

LARGEST = 20_000  #: training images; more would take too long for a first look
_REGULARIZATION = np.logspace(-4, 1, 6)


def linear_probe(recipe: ClassificationRecipe, train: LabelledImages, test: LabelledImages) -> float | None:
    """The test error of logistic regression on the features before the classifier, strength by cross-validation.

    Images are not augmented. None for a network that is not pretrained, or more than `LARGEST` training images.

    Raises:
        ValueError: if the network has no classifier.
    """
    if recipe.pretrained is None or len(train) > LARGEST:
        return None
    num_classes = len(train.classes)
    plain = recipe.replace(attention="none", freeze_backbone=False, drop_path=0.0)
    network = build_model(plain, num_classes, train.image_size).eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).to(memory_format=torch.channels_last)
    normalization = pixel_normalization(recipe, train)
    (x, y), (test_x, test_y) = (
        _features(network, num_classes, data.batches(64, normalization, device).test()) for data in (train, test)
    )
    return _error_of_regression(x, y, test_x, test_y)


@torch.no_grad()
def _features(
    network: nn.Module, num_classes: int, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[np.ndarray, np.ndarray]:
    """What the classifier takes, (n, features), and the classes (n,)."""
    features: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        value = inputs[0].float()
        features.append(value.mean((2, 3)) if value.dim() == 4 else value)

    handle = network.get_submodule(classifier_name(network, num_classes)).register_forward_pre_hook(keep)
    try:
        targets = [(network(images), classes)[1] for images, classes in batches]
    finally:
        handle.remove()
    return torch.cat(features).cpu().numpy(), torch.cat(targets).cpu().numpy()


def _error_of_regression(x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    folds = min(5, int(np.bincount(y).min()))
    if folds > 1:
        probe = GridSearchCV(probe, {"logisticregression__C": _REGULARIZATION}, cv=folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without regularisation it would not converge
        probe.fit(x, y)
    return float((probe.predict(test_x) != test_y).mean())
