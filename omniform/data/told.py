"""Media that are told along with the words of an answer: they stand beside it, not in the sequence."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt

from omniform.data.document import Document, Media
from omniform.data.positions import Ids
from omniform.geometry import SpecError
from omniform.prompt import Turn

Along: TypeAlias = Sequence[tuple[Media, ...]]
"""Of each learned answer the media told along with it."""


@dataclass(frozen=True)
class ToldItem:
    """A medium that is told along with an answer: the positions of the answer's tokens, and the codes of the medium."""

    modality: str
    at: Ids
    codes: Ids

    def within(self, start: int, stop: int) -> Self:
        """The same medium in the part from `start` to `stop`, for those of its positions that lie there."""
        return replace(self, at=self.at[(self.at >= start) & (self.at < stop)] - start)


def without_told(document: Document, along: Collection[str]) -> tuple[list[Turn], Along]:
    """Turns of a document without the media that are told along with answers, and these of each learned answer."""
    turns, told = document.turns(), []
    for number, turn in enumerate(turns):
        if turn.role == "assistant":
            media = [document.media[c[1]] for c in turn.content if not isinstance(c, str) and c[0] in along]
            kept = tuple(c for c in turn.content if isinstance(c, str) or c[0] not in along)
            turns[number] = replace(turn, content=kept)
            told += [tuple(media)] if turn.learn else []
    return turns, told


def told_from(along: Along, learn: npt.NDArray[np.bool_]) -> Iterator[tuple[Media, Ids]]:
    """Each medium told along, and the positions of its answer, which is one run of learned ids.

    Raises:
        SpecError: not as many runs as answers.
    """
    if not any(along):
        return
    runs = _runs(learn)
    if len(runs) != len(along):
        raise SpecError(
            f"{len(along)} answers of a document are to be learned, but its prompt learns {len(runs)} stretches of "
            "words; media told along with words need one for each answer"
        )
    for media, at in zip(along, runs, strict=True):
        yield from ((item, at) for item in media)


def _runs(learn: npt.NDArray[np.bool_]) -> list[Ids]:
    """Positions of each run of learned ids."""
    at = np.flatnonzero(learn)
    return np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else []
