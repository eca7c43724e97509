"""Metrics: one a file, the folder is the registry.

Each is a function `score(prediction, answer) -> Score` beside `compared(answer) -> str`, what of an answer it compares,
which is equal for answers that it does not tell apart.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from omniform.index import unknown


@dataclass(frozen=True)
class Score:
    """What one answer earned, of how much there was to earn; scores add up, and the sum's ratio is the metric.

    Attributes:
        errors: whether errors are counted, so that less is better and nothing is best.
    """

    earned: float
    possible: float = 1.0
    errors: bool = False

    @property
    def full(self) -> bool:
        return self.earned == (0.0 if self.errors else self.possible)

    @property
    def ratio(self) -> float:
        return self.earned / self.possible if self.possible else 0.0

    def __add__(self, other: Score) -> Score:
        """The score of both; nothing (`Score(0.0, 0.0)`) may be added to either kind."""
        errors = self.errors or other.errors
        return Score(self.earned + other.earned, self.possible + other.possible, errors)


Metric: TypeAlias = Callable[[str, str], Score]


def names() -> tuple[str, ...]:
    return tuple(sorted(info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)])))


def metric(name: str) -> Metric:
    """A metric by the name of its file.

    Raises:
        UnknownName: no such metric; the nearest names are given.
    """
    return _module(name).score


def compared(name: str) -> Callable[[str], str]:
    """What of an answer a metric compares; errors as in `metric`."""
    return _module(name).compared


def _module(name: str) -> Any:
    if name not in names():
        raise unknown("metric", name, names())
    return importlib.import_module(f"{__name__}.{name}")
