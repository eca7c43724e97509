"""Exact match: the answer is right when it is the true one up to case, surrounding whitespace and one final period."""

from __future__ import annotations

from omniform.evaluation.metrics import Score


def normalise(text: str) -> str:
    """Without surrounding whitespace, one final period, and case; nothing else is forgiven."""
    return text.strip().removesuffix(".").rstrip().casefold()


def compared(answer: str) -> str:
    return normalise(answer)


def score(prediction: str, answer: str) -> Score:
    return Score(float(compared(prediction) == compared(answer)))
