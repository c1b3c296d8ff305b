"""Cross-modal attention: a question selects regions of an image, and regions select words of the question.

One file per paper, and one for the two baselines without attention. The regions are the places of a feature map. Masks
mark padded words and regions; their values have no effect.
"""

from bam.attention.cross_modal.co_attention import CoAttention
from bam.attention.cross_modal.contract import CrossModal, Fused
from bam.attention.cross_modal.dual import DualAttention
from bam.attention.cross_modal.question_guided import QuestionGuided
from bam.attention.cross_modal.table import CROSS_MODAL, build_cross_modal, cross_modal_spec
from bam.attention.cross_modal.without_attention import AveragePooling, QuestionAlone

__all__ = [
    "CROSS_MODAL", "AveragePooling", "CoAttention", "CrossModal", "DualAttention", "Fused", "QuestionAlone",
    "QuestionGuided", "build_cross_modal", "cross_modal_spec",
]  # fmt: skip
