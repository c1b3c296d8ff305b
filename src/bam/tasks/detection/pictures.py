"""Pictures of detections and of the attention inside a detector."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from bam.explanation import site_gains
from bam.explanation.pictures import PANEL_SIDE
from bam.tasks.detection.detectors import DetectorModule
from bam.tasks.detection.metrics import Detections

_COLOURS = ("#d1495b", "#00798c", "#edae49", "#30638e", "#8d5a97", "#3c7a45", "#e07b39", "#5b6770")


def draw(image: Tensor, detections: Detections, classes: Sequence[str], score: float = 0.0) -> Tensor:
    """Draw the detections that score at least `score`: a box, the class, and the score unless it is 1.

    torchvision's `draw_bounding_boxes` would need the path of a font: its default text is too small to read.

    Args:
        image: uint8 (3, H, W); small images are enlarged by a whole number k so that the text is readable.
        detections: boxes in pixels of `image`.
        classes: class names, starting with label 1.
        score: minimum score.

    Returns: uint8 (3, H * k, W * k).
    """
    factor = max(1, -(-PANEL_SIDE // max(image.shape[1:])))
    canvas = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    kept = detections.scores >= score
    labels = detections.labels[kept].tolist()
    if not labels:
        return canvas
    picture = Image.fromarray(canvas.permute(1, 2, 0).numpy())
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    rows = zip((factor * detections.boxes[kept]).tolist(), detections.scores[kept].tolist(), labels, strict=True)
    for (left, top, right, bottom), value, label in sorted(rows, key=lambda row: row[1]):  # highest score on top
        colour = _COLOURS[label % len(_COLOURS)]
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=3)
        text = classes[label - 1] if value == 1 else f"{classes[label - 1]}: {value:.2f}"
        area = pen.textbbox((left + 4, max(0.0, top - 21)), text, font)
        pen.rectangle((area[0] - 4, area[1] - 3, area[2] + 4, area[3] + 3), fill=colour)
        pen.text((left + 4, max(0.0, top - 21)), text, "white", font)
    return pil_to_tensor(picture)


def gains_on_image(model: DetectorModule, image: Tensor) -> dict[str, Tensor]:
    """The gain of the attention at each position of an image, per site; see `site_gains`.

    Args:
        model: a detector with attention, in eval mode.
        image: float32 (3, H, W) from 0 to 1.

    Returns: site -> float32 (h, w), cropped to the image: the detector's padding is removed.
    """
    shares: dict[str, float] = {}

    def note_size(module: object, images: object, resized: tuple) -> None:
        (batch, _) = resized
        (height, width), padded = batch.image_sizes[0], batch.tensors.shape[-2:]
        shares.update(height=height / padded[0], width=width / padded[1])

    handle = model.transform.register_forward_hook(note_size)
    try:
        gains = site_gains(model, [image])
    finally:
        handle.remove()
    return {site: _top_left(gain[0], shares["height"], shares["width"]) for site, gain in gains.items()}


def _top_left(gain: Tensor, height: float, width: float) -> Tensor:
    """Crop a map (h, w) to these shares of its height and width, at least one position each."""
    return gain[: max(1, round(gain.shape[0] * height)), : max(1, round(gain.shape[1] * width))]
