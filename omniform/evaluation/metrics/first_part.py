"""First part: the answer is right when it begins as the true one does, up to the first comma ("food & drink, ...")."""

from __future__ import annotations

from omniform.evaluation.metrics import Score
from omniform.evaluation.metrics.exact_match import normalise


def score(prediction: str, answer: str) -> Score:
    said, true = (normalise(words.partition(",")[0]) for words in (prediction, answer))
    return Score(float(said == true))
