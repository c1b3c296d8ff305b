"""What a network attends to when it answers a question: regions, words, and the image network's own attention."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from bam.attention.contract import AttentionMaps
from bam.data import QuestionDataset
from bam.data.files.decoding import to_rgb
from bam.data.interface import Track, untracked
from bam.data.questions.words import words_of
from bam.explanation import record, save_png
from bam.explanation.examination import plain
from bam.explanation.passes import NOTHING_RUNS
from bam.explanation.pointing import pointing_at_objects
from bam.explanation.views import REGIONS, ImageView, SiteView, site_views
from bam.surgery import attended
from bam.tasks.task import Trained
from bam.tasks.vqa.network import Answered, VqaNetwork

_SHOWN, _PICTURES = 24, 3  # questions in the gallery, and how many of them are pictures in the report
_NUM_EXAMINED, _BATCH = 64, 32  # images examined for where attention points, and images per batch


def attends(network: VqaNetwork) -> bool:
    """Whether answers depend on attention of either kind."""
    return network.cross_modal.sees and (bool(attended(network)) or bool(list(network.cross_modal.parameters())))


def ask(trained: Trained, image: Any, question: str) -> tuple[Tensor, Answered]:
    """Ask a question about a PIL image; returns the image as the network sees it, uint8 (3, H, W), and the output.

    Raises:
        ValueError: for a question without words, or an output that is not finite.
    """
    network = cast(VqaNetwork, trained.network)
    resized = functional.resize(to_rgb(image), list(trained.preprocessing.image_size), antialias=True)
    pixels = functional.pil_to_tensor(resized)
    mean, std = (values[:, None, None] for values in trained.preprocessing.normalization)
    words = network.vocabulary.numbers([question]).to(trained.device)
    with torch.no_grad():
        answered = network(((pixels.float() - mean) / std)[None].to(trained.device), words)
    if not answered.logits.isfinite().all():
        raise ValueError("the network's output is not finite: its weights are damaged")
    return pixels, answered


def ranked(trained: Trained, answered: Answered, count: int = 5) -> list[tuple[str, float]]:
    """The most likely answers with their probabilities."""
    values, numbers = answered.logits[0].float().softmax(0).topk(min(count, answered.logits.shape[1]))
    return [(trained.classes[number], value) for number, value in zip(numbers.tolist(), values.tolist(), strict=True)]


def view(trained: Trained, name: str, image: Any, question: str) -> ImageView:
    """The attention in a PIL image for a question: the image network's own, then the regions and words of each step."""
    passes: list[dict[str, AttentionMaps]] = []
    with contextlib.ExitStack() as stack:
        if attended(trained.network):
            passes = stack.enter_context(record(trained.network))
        pixels, answered = ask(trained, image, question)
    sites = site_views(passes[0], 0) if passes else []
    for number, regions in enumerate(answered.regions):
        weights = answered.words[number][0].tolist() if answered.words else []
        words = tuple(zip(words_of(question), weights, strict=False))
        label = f"question, step {number + 1}" if len(answered.regions) > 1 else "question"
        sites.append(SiteView(label, {REGIONS: regions[0].float().cpu()}, None, words))
    if not sites:
        raise ValueError(NOTHING_RUNS)
    return ImageView(name, pixels, ranked(trained, answered), sites)


def points(trained: Trained, test: QuestionDataset, limit: int | None, track: Track = untracked) -> dict[str, Any]:
    """Where the attention points for each kind of question, using questions with boxes; as plain data.

    These are the pointing game and the energy of `bam.explanation.pointing`, with verdicts corrected for all kinds and
    sites; a hit lies in one of the question's boxes. Each kind has the regions of the last step; "KIND, SITE" has the
    image network's own attention, which does not see the question.

    Raises:
        ValueError: for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image, got {limit}")
    sample = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:limit].sort().values
    examined = test.subset(sample)
    if not any(question.boxes for question in examined.flat):
        return {}
    results = pointing_at_objects(_maps(trained, examined, track))
    kinds = set(examined.kinds)
    return plain({k: dataclasses.replace(v, place_map=REGIONS) if k in kinds else v for k, v in results.items()})


def _maps(
    trained: Trained, examined: QuestionDataset, track: Track
) -> Iterator[tuple[dict[str, AttentionMaps], Tensor, tuple[int, int]]]:
    """For each question with boxes: its maps by kind and site, the boxes, and the size of the image."""
    all_questions = examined.flat
    batches = examined.batches(_BATCH, trained.preprocessing.normalization, trained.device).test()
    for images, questions in track(batches, -(-len(examined) // _BATCH), "pointing"):
        passes: list[dict[str, AttentionMaps]] = [{}]
        with torch.no_grad(), contextlib.ExitStack() as stack:
            if attended(trained.network):
                passes = stack.enter_context(record(trained.network))
            answered = trained.network(images, questions.words, questions.image)
        for row, (number, image) in enumerate(zip(questions.number.tolist(), questions.image.tolist(), strict=True)):
            question = all_questions[number]
            maps = {f"{question.kind}, {site}": _of_image(of_batch, image) for site, of_batch in passes[0].items()}
            for regions in answered.regions[-1:]:
                maps[question.kind] = AttentionMaps(regions[row : row + 1].float().cpu())
            if question.boxes:
                yield maps, torch.tensor(question.boxes), examined.image_size


def _of_image(maps: AttentionMaps, number: int) -> AttentionMaps:
    """The maps of one image of a batch that rank positions."""
    spatial = maps.spatial_logits
    part = slice(number, number + 1)
    return AttentionMaps(maps.gain[part].cpu(), spatial_logits=None if spatial is None else spatial[part].cpu())


def look(trained: Trained, test: QuestionDataset, folder: Path) -> dict[str, Any]:
    """Views of some test questions, with pictures in `folder`, and where the attention points over more of them."""
    views: list[ImageView] = []
    for number in torch.linspace(0, len(test) - 1, min(_SHOWN, len(test))).long().tolist():
        single = test.subset(torch.tensor([number]))
        question = single.flat[len(views) % len(single.flat)]
        name = f"{len(views) + 1}: {question.text.rstrip('?')}? {next(iter(question.answers))}"
        views.append(view(trained, name, _image_of(single, trained), question.text))
    pictures = []
    for number, shown in enumerate(views[:: max(1, len(views) // _PICTURES)][:_PICTURES], start=1):
        picture = shown.picture()
        save_png(picture.quantize(256), folder / f"{number}.png")
        answer, share = shown.prediction[0]
        pictures.append({"file": f"{number}.png", "caption": f"{shown.name}; answered: {answer}, {100 * share:.0f} %"})
    parts = {"statistics": {}, "pointing": points(trained, test, _NUM_EXAMINED) or None, "ablations": None}
    return {
        "num_images": min(_NUM_EXAMINED, len(test)),
        "views": [shown.as_plain() for shown in views],
        "pictures": pictures,
        **parts,
    }


def _image_of(single: QuestionDataset, trained: Trained) -> Any:
    """The image of a data set with a single image, as it is served."""
    mean, std = (values[:, None, None] for values in trained.preprocessing.normalization)
    images, _ = next(single.batches(1, trained.preprocessing.normalization).test())
    return functional.to_pil_image((images[0] * std + mean).round().clamp(0, 255).to(torch.uint8))
