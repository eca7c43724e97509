"""Ask an engine every question of a dataset and compare its answers with the true ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from omniform.data.dataset import DataError, Dataset
from omniform.data.document import Document, Media, Text
from omniform.evaluation.evaluation import Evaluation, Prediction
from omniform.evaluation.metrics import Score, metric
from omniform.inference.rows import Answer
from omniform.inference.sampling import GenerationConfig

Progress = Callable[[int, int], None]
"""Called with the documents answered so far, and all."""


class Answering(Protocol):
    """What an evaluation needs of an engine."""

    def generate(
        self, documents: Sequence[Document], config: GenerationConfig = ..., progress: Progress | None = None
    ) -> Sequence[Answer]:
        """The answer of each document; a true answer at a document's end is not read."""
        ...


def evaluate(
    engine: Answering,
    dataset: Dataset,
    *,
    metric_name: str = "exact_match",
    config: GenerationConfig | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Answers to the last question of every document, scored.

    The true answer is what the assistant says at the document's end; `info["type"]` is the question's type.

    Args:
        config: how answers are generated; greedy if not given.
        limit: at most so many documents, from the first.

    Raises:
        DataError: the dataset is empty, or a document ends without an answer.
        UnknownName: no such metric.
    """
    score = metric(metric_name)
    documents = [dataset[i] for i in range(len(dataset) if limit is None else min(limit, len(dataset)))]
    if not documents:
        raise DataError("the dataset to evaluate on holds no documents; check its split and limit")
    truths = [true_answer(document) for document in documents]
    start = time.perf_counter()
    answers = engine.generate(documents, config or GenerationConfig(), progress)
    seconds = time.perf_counter() - start
    scores = [score(answer.text, truth) for answer, truth in zip(answers, truths, strict=True)]
    rows = zip(documents, answers, truths, scores, strict=True)
    predictions = [_prediction(number, *row) for number, row in enumerate(rows)]
    media = tuple(tuple(s for s in answer.segments if isinstance(s, Media)) for answer in answers)
    return Evaluation(metric_name, tuple(predictions), tuple(scores), seconds, media if any(media) else ())


def true_answer(document: Document) -> str:
    """What the assistant says at a document's end; `info["answer"]` where that is media alone.

    Raises:
        DataError: it says nothing there.
    """
    said = [segment.text for segment in document.answer if isinstance(segment, Text)]
    if not said and document.answer and "answer" in document.info:
        return str(document.info["answer"])
    if not said:
        raise DataError(
            f"document {document.id or '(unnamed)'} ends without an answer of the assistant to compare with; "
            "evaluation data needs one in every document"
        )
    return "".join(said)


def question_of(document: Document) -> str:
    """The user's last words."""
    words = [s.text for s in document.segments if isinstance(s, Text) and s.role == "user"]
    return words[-1].strip() if words else ""


def _prediction(number: int, document: Document, answer: Answer, truth: str, score: Score) -> Prediction:
    return Prediction(
        id=document.id or str(number), question=question_of(document), prediction=answer.text, answer=truth,
        correct=score.full, type=str(document.info.get("type", "")),
    )  # fmt: skip
