"""What a network attends to for a question: regions, words, and the image network's own attention."""

import contextlib
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
from bam.data.questions.dataset import Question
from bam.data.questions.words import words_of
from bam.explanation import hierarchy, record, save_png
from bam.explanation.examination import plain
from bam.explanation.passes import NOTHING_RUNS
from bam.explanation.pointing import pointing_at_objects
from bam.explanation.views import REGIONS, ImageView, SiteView, site_views
from bam.surgery import attended
from bam.tasks.task import Trained
from bam.tasks.vqa.network import Answered, VqaNetwork

_SHOWN, _PICTURES = 24, 3  # questions in the gallery, and of these as pictures in the report
_LOOKED_AT, _BATCH = 64, 32  # images, for where attention points; and in a batch of them


def attends(network: VqaNetwork) -> bool:
    """Whether there is attention of either kind."""
    return bool(attended(network)) or any(True for _ in network.cross_modal.parameters())


def ask(trained: Trained, image: Any, question: str) -> tuple[Tensor, Answered]:
    """A PIL image as the network sees it, uint8 (3, H, W), and what the network makes of one question about it.

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
    """Where the regions of the last step lie, kind of question by kind, for questions with boxes; as plain data.

    The pointing game and the energy of `bam.explanation.pointing`: a hit lies in one of the boxes that matter.

    Raises:
        ValueError: for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image, got {limit}")
    drawn = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:limit].sort().values
    shown = test.subset(drawn)
    if not any(question.boxes for question in shown.flat):
        return {}
    results: dict[str, Any] = {}
    maps = _region_maps(trained, shown, track)
    for kind in shown.kinds:
        chosen = ((maps[k], question) for k, question in enumerate(shown.flat) if question.kind == kind)
        pairs = [(regions, question) for regions, question in chosen if question.boxes and regions is not None]
        if pairs:
            results |= {kind: pointing_at_objects(_targets(pairs, shown.image_size))["question"]}
    return plain(results)


def _region_maps(trained: Trained, shown: QuestionDataset, track: Track) -> list[Tensor | None]:
    """The regions of the last step for each question; None for a network that attends to none."""
    maps: list[Tensor | None] = [None] * len(shown.flat)
    batches = shown.batches(_BATCH, trained.preprocessing.normalization, trained.device).test()
    for images, questions in track(batches, -(-len(shown) // _BATCH), "pointing"):
        with torch.no_grad():
            answered = trained.network(images, questions.words, questions.image)
        for regions in answered.regions[-1:]:
            for number, values in zip(questions.number.tolist(), regions.float().cpu(), strict=True):
                maps[number] = values
    return maps


def _targets(
    pairs: list[tuple[Tensor, Question]], size: tuple[int, int]
) -> Iterator[tuple[dict[str, AttentionMaps], Tensor, tuple[int, int]]]:
    for regions, question in pairs:
        yield {"question": AttentionMaps(regions[None])}, torch.tensor(question.boxes), size


def look(trained: Trained, test: QuestionDataset, folder: Path) -> dict[str, Any]:
    """Views of some test questions, with pictures in `folder`, and where the regions lie over more of them."""
    views: list[ImageView] = []
    for number in torch.linspace(0, len(test) - 1, min(_SHOWN, len(test))).long().tolist():
        one = test.subset(torch.tensor([number]))
        question = one.flat[len(views) % len(one.flat)]
        image = _image_of(one, trained)
        views.append(
            view(trained, f"{len(views) + 1}: {question.text}? {next(iter(question.answers))}", image, question.text)
        )
    pictures = []
    for number, each in enumerate(views[:: max(1, len(views) // _PICTURES)][:_PICTURES], start=1):
        picture = hierarchy(each.pixels, {site.site: site.shown for site in each.sites})
        save_png(picture.quantize(256), folder / f"{number}.png")
        what, share = each.prediction[0]
        pictures.append({"file": f"{number}.png", "caption": f"{each.name}; answered: {what}, {100 * share:.0f} %"})
    parts = {"statistics": {}, "pointing": points(trained, test, _LOOKED_AT) or None, "ablations": None}
    return {"num_images": len(test), "views": [each.as_plain() for each in views], "pictures": pictures, **parts}


def _image_of(one: QuestionDataset, trained: Trained) -> Any:
    """The image of a data set of one, as it is served."""
    mean, std = (values[:, None, None] for values in trained.preprocessing.normalization)
    images, _ = next(one.batches(1, trained.preprocessing.normalization).test())
    return functional.to_pil_image((images[0] * std + mean).round().clamp(0, 255).to(torch.uint8))
