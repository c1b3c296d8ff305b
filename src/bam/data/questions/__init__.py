"""Images with questions about them and answers, and batches of both."""

from bam.data.questions.dataset import Question, QuestionBatch, QuestionDataset
from bam.data.questions.digits import digits_questions
from bam.data.questions.vqa2 import vqa2
from bam.data.questions.words import Vocabulary

__all__ = ["Question", "QuestionBatch", "QuestionDataset", "Vocabulary", "digits_questions", "vqa2"]
