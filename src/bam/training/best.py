"""The best epoch of a run, chosen on images held out of the training images."""

import math
from typing import Any

from torch import Tensor, nn

from bam.tasks import Evaluation

HELD_OUT = "validation_"  #: prefix of figures on the held-out images, in place of "test_"


class Best:
    """The weights of the epoch that did best on the held-out images; in a tie, the first."""

    def __init__(self) -> None:
        self.epoch = 0  #: number of the epoch, from 1; 0: none yet
        self.score = -math.inf
        self.weights: dict[str, Tensor] = {}

    def offer(self, epoch: int, evaluation: Evaluation, network: nn.Module) -> None:
        """Keep a copy of the network's weights if this epoch is the best so far."""
        measure = evaluation.measures[0]
        score = evaluation.figures[measure.key] * (1 if measure.higher_is_better else -1)
        if score > self.score:
            self.epoch, self.score = epoch, score
            self.weights = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """The state `load` resumes from."""
        return vars(self).copy()

    def load(self, state: dict[str, Any]) -> None:
        """Resume from `state`."""
        vars(self).update(state)


def renamed(figures: dict[str, float]) -> dict[str, float]:
    """Rename figures on held-out images from "test_..." to "validation_..."."""
    return {HELD_OUT + name.removeprefix("test_"): value for name, value in figures.items()}
