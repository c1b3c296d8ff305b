"""Images with questions and answers, and their batches."""

from bam.data.questions.dataset import Question, QuestionBatch, QuestionDataset
from bam.data.questions.digits import digits_questions
from bam.data.questions.words import Vocabulary

__all__ = ["Question", "QuestionBatch", "QuestionDataset", "Vocabulary", "digits_questions"]
