"""First part: the answer is right when it begins as the true one does, up to the first comma ("food & drink, ...")."""

from __future__ import annotations

from omniform.evaluation.metrics import Score
from omniform.evaluation.metrics.exact_match import normalise


def compared(answer: str) -> str:
    return normalise(answer.partition(",")[0])


def score(prediction: str, answer: str) -> Score:
    return Score(float(compared(prediction) == compared(answer)))
