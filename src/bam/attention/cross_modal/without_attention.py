"""Baselines without attention: average pooling, and the question alone."""

from typing import ClassVar

from torch import Tensor

from bam.attention.cross_modal.contract import CrossModal, Fused, Side


class AveragePooling(CrossModal):
    """No attention: u = mean_i v_i + v_Q, the baseline that weights all regions equally."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def fuse(self, image: Side, text: Side, question: Tensor) -> Fused:
        """The mean of the regions, added to the question."""
        return Fused(image.mean() + question)


class QuestionAlone(CrossModal):
    """No image: u = v_Q. Its accuracy shows how much the wording of the questions alone gives away."""

    sees: ClassVar[bool] = False

    def __init__(self, width: int) -> None:
        super().__init__()

    def fuse(self, image: Side, text: Side, question: Tensor) -> Fused:
        """The question."""
        return Fused(question)
