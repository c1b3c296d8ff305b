"""Normalise people's answers, and score an answer against ten of them (VQA, https://visualqa.org)."""

import re
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_NUMBERS["none"] = "0"
_ARTICLES = {"a", "an", "the"}

#: Contractions; people also leave out one or all of their apostrophes.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's
where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
y'all'd've you'd you'd've you'll you're you've
""".split()


def _spellings(form: str) -> list[str]:
    """A contraction without one of its apostrophes, and without any."""
    places = [place for place, sign in enumerate(form) if sign == "'"]
    return [form.replace("'", ""), *(form[:place] + form[place + 1 :] for place in places)]


_FULL = {spelling: form for form in _CONTRACTIONS for spelling in _spellings(form)}


def normalized_answer(text: str) -> str:
    """An answer in the form that VQA's evaluation compares.

    Lower case; no articles; numbers up to ten as digits; contractions with their apostrophes; punctuation removed, or
    replaced by a space between letters; full stops removed except before a digit.
    """
    text = " ".join(text.split())
    has_number = _COMMA_IN_NUMBER.search(text) is not None
    result = text
    for sign in _PUNCTUATION:
        at_a_space = f"{sign} " in text or f" {sign}" in text
        result = result.replace(sign, "" if at_a_space or has_number else " ")
    words = (_NUMBERS.get(word, word) for word in _FULL_STOP.sub("", result).lower().split())
    return " ".join(_FULL.get(word, word) for word in words if word not in _ARTICLES)


def answer_scores(texts: Sequence[str]) -> dict[str, float]:
    """Score each answer that people gave: answer -> score, the most frequent first.

    An answer scores min(n / 3, 1) if n people gave it. This is computed with each person left out in turn, and averaged
    (Antol et al., ICCV 2015; Goyal et al., CVPR 2017). With ten answers: 0.3, 0.6, 0.9 and 1. As in the official
    evaluation, answers are compared as they are if all people agree, and otherwise in the form of `normalized_answer`.
    """
    answers = [" ".join(text.split()) for text in texts]
    if len(set(answers)) > 1:
        answers = [normalized_answer(text) for text in answers]
    people = len(answers)
    scores = {}
    for answer, count in Counter(answers).most_common():
        without_one_of_them, without_another = min((count - 1) / 3, 1), min(count / 3, 1)
        scores[answer] = (count * without_one_of_them + (people - count) * without_another) / people
    return scores
