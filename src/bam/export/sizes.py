"""Choose the image sizes at which a network is traced and its file is checked."""

from collections.abc import Sequence

from torch import nn

from bam.dryrun import Image, dry_run, image_shape
from bam.export.reasons import REFUSALS, reason

#: Axis of an image batch whose size may vary from call to call -> its index in (N, C, H, W).
AXES = {"batch": 0, "height": 2, "width": 3}

Shape = tuple[int, ...]  # (N, C, H, W)


def sizes_to_check(model: nn.Module, image: Image | None, dynamic: Sequence[str]) -> list[Shape]:
    """The shape (N, C, H, W) to trace at, and two non-square shapes that differ from it in every dynamic axis.

    One of the two has odd sides if the network accepts odd sides. Nothing is computed.

    Raises:
        ValueError: if the network does not run at one of them, so that an axis cannot be dynamic.
    """
    batch, channels, height, width = image_shape(model, image)

    def shape(images: int, taller: int, wider: int) -> Shape:
        return (
            images if "batch" in dynamic else batch,
            channels,
            height + taller * ("height" in dynamic),
            width + wider * ("width" in dynamic),
        )

    traced, larger, odd, even = shape(2, 0, 0), shape(1, 32, 64), shape(3, 33, 1), shape(3, 64, 32)
    refusal = _refusal(model, traced)
    if refusal:
        raise ValueError(f"{type(model).__name__} does not run on images {traced}: {refusal}; pass a size, image=")
    refusal = _refusal(model, larger)
    if refusal:
        raise ValueError(
            f"{type(model).__name__} cannot have {', '.join(dynamic)} dynamic: it runs on images {traced} but not on "
            f"{larger}: {refusal}; {advice(dynamic)}"
        )
    return list(dict.fromkeys([traced, larger, even if _refusal(model, odd) else odd]))


def advice(dynamic: Sequence[str]) -> str:
    """Advice on which dynamic axes to try if `dynamic` does not work."""
    return 'try dynamic=("batch",)' if set(dynamic) - {"batch"} else "try dynamic=()"


def _refusal(model: nn.Module, shape: Shape) -> str | None:
    """The reason why the network does not run on images of `shape`; None if it runs."""
    try:
        dry_run(model, shape)
    except REFUSALS as error:
        return reason(error)
    return None
