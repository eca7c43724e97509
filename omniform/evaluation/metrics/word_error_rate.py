"""Word error rate (package `jiwer`): words exchanged, left out or added, for each word that was said."""

from __future__ import annotations

from omniform.data.dataset import DataError
from omniform.evaluation.metrics import Score
from omniform.evaluation.metrics.exact_match import normalise


def compared(answer: str) -> str:
    return normalise(answer)


def score(prediction: str, answer: str) -> Score:
    """Errors of one answer, of the words that were said; white space, case and a final period do not count.

    Raises:
        DataError: jiwer is not installed, or the true answer holds no words.
    """
    try:
        import jiwer
    except ImportError as error:
        raise DataError("metric word_error_rate: its package is not installed; run `pip install jiwer`") from error
    said, heard = compared(answer), compared(prediction)
    if not said:
        raise DataError("metric word_error_rate: a true answer holds no words, so no rate can be told")
    found = jiwer.process_words(said, heard)
    return Score(float(found.substitutions + found.deletions + found.insertions), float(len(said.split())), True)
