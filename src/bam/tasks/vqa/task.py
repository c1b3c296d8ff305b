"""The visual question answering task."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn

from bam.costs import Cost, cost
from bam.data import BatchSource, QuestionDataset, load_questions
from bam.data.files.decoding import read_rgb
from bam.data.files.listing import find_files
from bam.data.interface import Images, Track
from bam.data.questions.dataset import QuestionBatch
from bam.dryrun import Image
from bam.explanation.views import ImageView
from bam.files import strict_json, write_atomically
from bam.models import build
from bam.placement import BOTTLENECKS, Sites, find_bottlenecks, select_sites
from bam.recipes import VqaRecipe
from bam.records import Breakdown, ClassResult, Measure, Record
from bam.tasks.pixels import normalization_note, pixel_normalization
from bam.tasks.task import Evaluation, PredictOptions, Price, Subject, Task, Trained, count_classes
from bam.tasks.vqa.looking import ask, attends, look, points, ranked, view
from bam.tasks.vqa.network import VqaNetwork, build_network

RESULTS = "answers.json"
_NUM_ANSWERS, _IMAGE_SIZE = 3000, (224, 224)  # for a cost without data

ACCURACY = Measure("test_accuracy", "accuracy", "mean score of the answers to the test questions", True)


def kind_measure(kind: str) -> Measure:
    """The accuracy on one kind of question."""
    return Measure(f"test_accuracy_{kind}", kind, f"accuracy on questions of the kind {kind}", True)


class Vqa(Task):
    """Questions about images, and answers."""

    name: ClassVar[str] = "vqa"
    not_exported: ClassVar[str] = "bam export writes classifiers; to ask a network, run bam predict with --question"
    not_named: ClassVar[str] = "give the folder of a run"
    not_predicted: ClassVar[str] = ""
    asks: ClassVar[bool] = True
    not_broken_down: ClassVar[str] = ""
    recipe: VqaRecipe

    def load(self, root: Path | None) -> tuple[QuestionDataset, QuestionDataset]:
        """(train, test), see `bam.data.load_questions`."""
        return load_questions(self.recipe.data, root, **self.recipe.data_options)

    def vocabulary(self, train: QuestionDataset) -> list[str]:
        """The words of the training questions."""
        return list(train.vocabulary.words)

    def network(self, subject: Subject, *, to_train: bool = True) -> VqaNetwork:
        """See `build_network`."""
        words: list[str] = []
        if isinstance(subject, Record):
            words = subject.vocabulary
        elif isinstance(subject, QuestionDataset):
            words = list(subject.vocabulary.words)
        height, width = subject.image_size
        return build_network(self.recipe, words, count_classes(subject), (height, width), to_train=to_train)

    def numbered(self, images: QuestionDataset, trained: Trained) -> QuestionDataset:
        """The same questions with answers and words numbered as in the network, which knows no others."""
        return images.renumbered(trained.classes, cast(VqaNetwork, trained.network).vocabulary)

    def new_parts(self, network: nn.Module, num_classes: int) -> list[str]:
        """The attention, and everything except the image network."""
        parts = [name for name, _ in network.named_children() if name != "image"]
        return [*super().new_parts(network, num_classes), *parts]

    def normalization(self, network: nn.Module, train: QuestionDataset) -> tuple[Tensor, Tensor]:
        """See `pixel_normalization`."""
        return pixel_normalization(self.recipe, train)

    def notes(self, train: Images) -> list[str]:
        """Also says how images are normalised, if that is a guess."""
        return [*super().notes(train), *normalization_note(self.recipe)]

    def batches(
        self, data: QuestionDataset, size: int, normalization: tuple[Tensor, Tensor], placement: Any
    ) -> BatchSource:
        """Batches of images, each with all of its questions."""
        device, shard = placement
        return data.batches(size, normalization, device, shard=shard)

    def cost(self, network: nn.Module, image_size: tuple[int, int]) -> Cost:
        """See `bam.cost`; counted for a question of one word."""
        return cost(network, image_size)

    def price(self, num_classes: int | None, image: Image | None) -> Price:
        """The cost at 224 x 224 pixels for 3,000 answers by default, without and with the image network's attention."""
        size = _IMAGE_SIZE if image is None else tuple(image.shape[2:]) if isinstance(image, Tensor) else image
        height, width = (size, size) if isinstance(size, int) else size[-2:]
        count = num_classes or _NUM_ANSWERS
        conditions = f"{count} answers, one unknown word, {height} x {width}"
        plain = build_network(self.recipe.replace(attention="none"), [], count, (height, width), to_train=False)
        priced = cost(plain, (height, width))
        if self.recipe.attention.is_none:
            return Price(priced, None, conditions)
        attended = build_network(self.recipe, [], count, (height, width), to_train=False)
        return Price(priced, cost(attended, (height, width)), conditions)

    def sites(self, num_classes: int | None, image: Image | None, keep: int) -> tuple[Sites, str]:
        """The bottlenecks of the image network, or the sites of the recipe's attention."""
        network, selection = build(self.recipe.model), self.recipe.attention.placed()
        remark = f"attention goes into the image network, {self.recipe.model}:"
        if selection == (BOTTLENECKS,):
            return find_bottlenecks(network, image, keep=keep), remark
        return select_sites(network, selection, image), remark

    def loss(self, network: nn.Module, images: Tensor, targets: QuestionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, averaged over each image's questions, then over images; and figures: loss and accuracy.

        The figures are multiplied by the number of images.
        """
        logits = network(images, targets.words, targets.image).logits.float()
        losses = F.cross_entropy(logits, targets.goal, ignore_index=-1, reduction="none")
        loss = (losses / torch.bincount(targets.image)[targets.image]).sum() / len(targets)
        scores = targets.scores.gather(1, logits.argmax(1, keepdim=True)).mean()
        return loss, {"loss": loss.detach() * len(targets), "accuracy": scores * len(targets)}

    def evaluate(self, network: nn.Module, batches: BatchSource, test: QuestionDataset) -> Evaluation:
        """The accuracy over all questions and of each kind, and the answers."""
        return self._evaluation(network, batches.test(), test)

    @torch.no_grad()
    def _evaluation(self, network: nn.Module, batches: Iterable[Any], test: QuestionDataset) -> Evaluation:
        network.eval()
        device = next(network.parameters()).device
        #: Per kind: scores, questions, losses, and questions with a known answer, which alone have a loss.
        sums = torch.zeros(len(test.kinds), 4, device=device, dtype=torch.float64)
        answers: list[tuple[int, int]] = []
        for images, questions in batches:
            logits = network(images, questions.words, questions.image).logits.float()
            chosen = logits.argmax(1)
            scores = questions.scores.gather(1, chosen[:, None])[:, 0]
            losses = F.cross_entropy(logits, questions.goal, ignore_index=-1, reduction="none")
            columns = torch.stack([scores, torch.ones_like(scores), losses, questions.goal >= 0], dim=1).double()
            sums.index_add_(0, questions.kind, columns)
            answers += zip(questions.number.tolist(), chosen.tolist(), strict=True)
        scored, counts, losses, known = reduce(sums, "sum").unbind(1)
        loss = float(losses.sum() / known.sum().clamp(min=1))
        figures = {"test_loss": loss, ACCURACY.key: float(scored.sum() / counts.sum())}
        measures = [ACCURACY]
        for kind, total, count in zip(test.kinds, scored.tolist(), counts.tolist(), strict=True):
            if count:
                measures.append(kind_measure(kind))
                figures[measures[-1].key] = total / count
        gathered = gather_object(answers)
        output = dict(gathered)
        assert len(output) == len(gathered), "several processes answered the same question"
        return Evaluation(figures, measures, output)

    def break_down(self, network: nn.Module, batches: Iterable[Any], test: QuestionDataset) -> Breakdown:
        """The accuracy in total and of each kind of question."""
        evaluation = self._evaluation(network, batches, test)
        if not math.isfinite(evaluation.figures["test_loss"]):
            raise ValueError("the network's output is not finite: its weights are damaged")
        scores: dict[str, list[float]] = {kind: [] for kind in test.kinds}
        flat = test.flat
        for number, answer in evaluation.output.items():
            scores[flat[number].kind].append(flat[number].score(test.classes[answer]))
        exact = {score for values in scores.values() for score in values} <= {
            0.0,
            1.0,
        }  # else some are partly right
        rows = [
            ClassResult(kind, len(values), values.count(0.0) if exact else None, {"accuracy": fmean(values)})
            for kind, values in scores.items()
            if values
        ]
        figures = {ACCURACY.key: evaluation.figures[ACCURACY.key]}
        return Breakdown(len(test), [ACCURACY], figures, "questions", rows)

    def describe(self, row: Mapping[str, float]) -> str:
        """Training loss and accuracy."""
        return f"train loss {row['train_loss']:.3f} accuracy {100 * row['train_accuracy']:.2f} %"

    def results(self, evaluation: Evaluation, test: QuestionDataset) -> dict[str, str]:
        """The answers to the test questions, in the format of VQA's results."""
        rows, flat = [], test.flat
        for number, answer in sorted(evaluation.output.items()):
            question_id = number if flat[number].number is None else flat[number].number
            rows.append({"question_id": question_id, "answer": test.classes[answer]})
        return {RESULTS: strict_json(rows, indent=None)}

    def attends(self, network: nn.Module) -> bool:
        """Whether the image network has attention, or the cross-modal module attends."""
        return attends(cast(VqaNetwork, network))

    def views(
        self, trained: Trained, images: Iterable[tuple[str, Any]], question: str | None = None
    ) -> Iterator[ImageView]:
        """The image network's attention, the attention for the question, and the five most likely answers."""
        for name, image in images:
            yield view(trained, name, image, question or "")

    def unknown_words(self, trained: Trained, question: str) -> list[str]:
        """See `Task.unknown_words`."""
        return cast(VqaNetwork, trained.network).vocabulary.unknown(question)

    def examine(self, trained: Trained, test: QuestionDataset, limit: int | None, track: Track) -> dict[str, Any]:
        """Where the attention points for each kind of question, see `points`.

        Raises:
            ValueError: for data without boxes, or a network that attends to no region.
        """
        if not self.attends(trained.network):
            raise ValueError(f"this network has no attention: {self.recipe.cross_modal} attends to nothing")
        results = points(trained, test, limit, track)
        if not results:
            raise ValueError(f"{self.recipe.data} has no boxes to compare the attention with")
        count = min(limit or len(test), len(test))
        parts = {"statistics": {}, "pointing": results, "faithfulness": {}, "ablations": None}
        return {"num_images": count, "num_unreadable": 0, **parts}

    def look(self, trained: Trained, test: QuestionDataset, folder: Path) -> dict[str, Any]:
        """See `bam.tasks.vqa.looking.look`."""
        return look(trained, test, folder)

    def predict(self, trained: Trained, images: Sequence[Path], out: Path, options: PredictOptions) -> list[str]:
        """Answer a question about the user's own images.

        Raises:
            ValueError: for a minimum score, a question without words, or if no image can be read; also the errors of
                `find_files`.
        """
        if options.score is not None:
            raise ValueError("a score is for detections: answers are written with their probability")
        question = options.question or ""
        cast(VqaNetwork, trained.network).vocabulary.numbers([question])  # raises if it has no words
        files, notes = find_files(images)
        answers, lines = {}, []
        for file in options.track(files, len(files), "answering"):
            try:
                image = read_rgb(str(file))
            except ValueError as error:
                lines.append(f"left out: {file} cannot be read as an image: {error}")
                continue
            answers[str(file)] = ranked(trained, ask(trained, image, question)[1])
            shown = (f"{answer} {100 * share:.1f} %" for answer, share in answers[str(file)])
            lines.append(f"{file}: {', '.join(shown)}")
        if not answers:
            raise ValueError(f"none of the {len(files)} images can be read; {lines[0]}")
        content = {"question": question, "answers": answers}
        write_atomically(out / "predictions.json", strict_json(content))
        return [*lines, *notes, f"predictions.json in {out}"]
