"""What an evaluation found: predictions, the score over all of them and by question type."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

from omniform.data.document import Media
from omniform.evaluation.metrics import Score, compared


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One answered question; a line of `predictions.jsonl`.

    Attributes:
        correct: whether the metric gave everything there was to earn.
        type: kind of question, `info["type"]` of its document.
    """

    id: str
    question: str
    prediction: str
    answer: str
    correct: bool
    type: str


@dataclass(frozen=True)
class Tally:
    """Score of some predictions.

    Attributes:
        commonest: share of the predictions that always giving their commonest true answer would get right.
    """

    score: Score
    count: int
    right: int
    commonest: float

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share of right answers (Wilson 1927)."""
        z, n, p = 1.959964, self.count, self.right / self.count
        centre, spread = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


@dataclass(frozen=True)
class Evaluation:
    """All predictions on one dataset, in its order.

    Attributes:
        scores: what each prediction earned.
        seconds: wall time of generating the answers.
        media: what each answer holds beside words; empty where no answer has any.
        real: what the judge of the answers' media makes of the true ones; None where nothing is judged.
    """

    metric: str
    predictions: tuple[Prediction, ...]
    scores: tuple[Score, ...]
    seconds: float = 0.0
    media: tuple[tuple[Media, ...], ...] = ()
    real: Evaluation | None = None

    @cached_property
    def overall(self) -> Tally:
        return self._tally(range(len(self.predictions)))

    @cached_property
    def by_type(self) -> dict[str, Tally]:
        """Question type -> tally, in alphabetical order."""
        members: dict[str, list[int]] = {}
        for number, prediction in enumerate(self.predictions):
            members.setdefault(prediction.type, []).append(number)
        return {kind: self._tally(members[kind]) for kind in sorted(members)}

    def _tally(self, numbers: Iterable[int]) -> Tally:
        numbers = list(numbers)
        same = compared(self.metric)
        answers = Counter(same(self.predictions[i].answer) for i in numbers)
        return Tally(
            score=sum((self.scores[i] for i in numbers), Score(0.0, 0.0)),
            count=len(numbers),
            right=sum(self.predictions[i].correct for i in numbers),
            commonest=max(answers.values()) / len(numbers),
        )

    def summary(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {
            "metric": self.metric,
            "seconds": round(self.seconds, 3),
            **_figures(self.overall),
            "by_type": {kind: _figures(tally) for kind, tally in self.by_type.items()},
            **({"judge_of_real_media": self.real.summary()} if self.real else {}),
        }

    def save(self, folder: Path) -> None:
        """`predictions.jsonl` and `evaluation.json` in a folder; each appears whole or not at all."""
        lines = (json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in self.predictions)
        write_whole(folder / "predictions.jsonl", "".join(lines))
        write_whole(folder / "evaluation.json", json.dumps(self.summary(), indent=1, ensure_ascii=False) + "\n")


def _figures(tally: Tally) -> dict[str, Any]:
    low, high = tally.interval
    return {
        "score": tally.score.ratio, "right": tally.right, "count": tally.count,
        "interval_95": [low, high], "commonest_answer": tally.commonest,
    }  # fmt: skip


def write_whole(path: Path, text: str) -> None:
    """Write a text file beside its place and rename it, so that it is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
