"""The table of cross-modal modules, and building one by name."""

from collections.abc import Callable

from bam.attention.cross_modal.co_attention import CoAttention
from bam.attention.cross_modal.contract import CrossModal
from bam.attention.cross_modal.dual import DualAttention
from bam.attention.cross_modal.question_guided import QuestionGuided
from bam.attention.cross_modal.without_attention import AveragePooling, QuestionAlone
from bam.attention.spec import AttentionSpec

#: Name -> class. Every entry is built as `cls(width, **options)`.
CROSS_MODAL: dict[str, Callable[..., CrossModal]] = {
    "none": AveragePooling,
    "question": QuestionAlone,
    "question_guided": QuestionGuided,
    "co_attention": CoAttention,
    "dual": DualAttention,
}


def cross_modal_spec(text: str) -> AttentionSpec:
    """Parse the name of a module with its options, e.g. "question_guided(hops=3)".

    Raises:
        ValueError: for an unknown name, or text in another form.
    """
    try:
        spec = AttentionSpec.parse(text)
    except ValueError as error:
        raise ValueError(f"cross_modal: {str(error).removeprefix('attention ')}") from None
    if spec.name not in CROSS_MODAL:
        raise ValueError(f"unknown cross-modal module {spec.name!r}; known: {', '.join(CROSS_MODAL)}")
    return spec


def build_cross_modal(text: str, width: int) -> CrossModal:
    """Build the module that `text` names, for vectors of width `width`.

    Raises:
        ValueError: for an unknown name, or options that it does not take.
    """
    spec = cross_modal_spec(text)
    try:
        return CROSS_MODAL[spec.name](width, **spec.arguments)
    except TypeError as error:  # Python's message names the unknown option
        raise ValueError(f"cross-modal module {text}: {error}") from error
