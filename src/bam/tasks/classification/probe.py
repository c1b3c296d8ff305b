"""The linear probe: a linear classifier of a pretrained network's frozen features."""

import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bam.data import LabelledImages
from bam.models import classifier_name
from bam.recipes import ClassificationRecipe
from bam.tasks.classification.network import build_model
from bam.tasks.pixels import pixel_normalization

LARGEST = 20_000  #: training images; more would take too long for a first look
_REGULARIZATION = np.logspace(-4, 1, 6)


class Probe(NamedTuple):
    """A linear classifier: logits are features @ weight.T + bias."""

    weight: Tensor  #: float32 (classes, features)
    bias: Tensor  #: float32 (classes,)


def linear_probe(recipe: ClassificationRecipe, train: LabelledImages, test: LabelledImages) -> float | None:
    """The test error of the probe; None if `fit_probe` returns None."""
    probe = fit_probe(recipe, train)
    if probe is None:
        return None
    features, targets = _features(recipe, train, test)
    return ((features @ probe.weight.T + probe.bias).argmax(1) != targets).double().mean().item()


def start_at_probe(classifier: nn.Module, recipe: ClassificationRecipe, train: LabelledImages) -> None:
    """Copy the probe's weights into a new linear classifier that is still zero: fine-tuning starts with its error.

    Linear probing before fine-tuning (arXiv 2202.10054) keeps the pretrained features intact in the first steps, and
    makes seeds differ less. Other classifiers are left alone: those with pretrained weights, and convolutions.
    """
    if not isinstance(classifier, nn.Linear) or classifier.weight.any():
        return
    probe = fit_probe(recipe, train)
    if probe is not None:
        with torch.no_grad():
            classifier.weight.copy_(probe.weight)
            if classifier.bias is not None:
                classifier.bias.copy_(probe.bias)


def fit_probe(recipe: ClassificationRecipe, train: LabelledImages) -> Probe | None:
    """Logistic regression on the features before the classifier; cross-validation chooses its regularisation.

    Images are not augmented. All runs of a comparison share one probe, so the last one is cached. Returns None for a
    network that is not pretrained, a single class, or more than `LARGEST` training images.

    Raises:
        ValueError: if the network has no classifier.
    """
    if recipe.pretrained is None or len(train) > LARGEST:
        return None
    key = f"{recipe.model} {recipe.pretrained} {recipe.data} {recipe.data_options} {train.fingerprint}"
    key += f" {recipe.seed}" if recipe.validation else ""  # each seed holds out other images
    if key not in _last:
        x, y = _features(recipe, train, train)
        _last.clear()
        _last[key] = _fit(x.numpy(), y.numpy(), len(train.classes))
    return _last[key]


_last: dict[str, Probe | None] = {}


@torch.no_grad()
def _features(recipe: ClassificationRecipe, train: LabelledImages, images: LabelledImages) -> tuple[Tensor, Tensor]:
    """The inputs of the plain network's classifier for `images`, float32 (n, features), and their classes (n,)."""
    num_classes = len(train.classes)
    plain = recipe.replace(attention="none", freeze_backbone=False, drop_path=0.0, new_classifier="library")
    network = build_model(plain, num_classes, train.image_size).eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).to(memory_format=torch.channels_last)
    batches = images.batches(64, pixel_normalization(recipe, train), device)
    return _before_classifier(network, num_classes, batches.test())


def _before_classifier(
    network: nn.Module, num_classes: int, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    features: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        value = inputs[0].float()
        features.append(value.mean((2, 3)) if value.dim() == 4 else value)

    handle = network.get_submodule(classifier_name(network, num_classes)).register_forward_pre_hook(keep)
    try:
        targets = [(network(images), classes)[1] for images, classes in batches]
    finally:
        handle.remove()
    return torch.cat(features).cpu(), torch.cat(targets).cpu()


def _strongest(scores: dict[str, np.ndarray]) -> int:
    """The strongest regularisation whose accuracy is within a standard error of the best (Breiman et al., 1984).

    Choosing the best itself would fit noise: if many strengths do equally well, its weights can be so large that the
    first steps of fine-tuning wreck the features.
    """
    means, folds = scores["mean_test_score"], sum(key.startswith("split") for key in scores)
    best = int(means.argmax())
    return int(np.argmax(means >= means[best] - scores["std_test_score"][best] / folds**0.5))


def _fit(x: np.ndarray, y: np.ndarray, num_classes: int) -> Probe | None:
    """Logistic regression on standardised features, as a linear classifier of the features themselves."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.preprocessing import StandardScaler

    present, counts = np.unique(y, return_counts=True)
    if len(present) < 2:
        return None
    scaler = StandardScaler().fit(x)
    regression = LogisticRegression(max_iter=500)
    folds = min(5, int(counts.min()))
    grid = {"C": _REGULARIZATION}
    search = GridSearchCV(regression, grid, cv=folds, refit=_strongest) if folds > 1 else regression
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weakly regularised fits do not converge
        search.fit(scaler.transform(x), y)
    fitted = search.best_estimator_ if folds > 1 else search
    weight, bias = fitted.coef_, fitted.intercept_
    if len(present) == 2:  # scikit-learn gives only the logit of the second class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    # A class without training images gets the lowest bias, so that it is not predicted at first.
    rows, shifts = np.zeros((num_classes, x.shape[1])), np.full(num_classes, bias.min())
    rows[present], shifts[present] = weight, bias
    return Probe(torch.from_numpy(rows).float(), torch.from_numpy(shifts).float())
