"""One strategy for a medium that stands alone in its document, another where several stand together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.geometry import MediaSize, Plan, SpecError
from omniform.parts import Shrunk, Sight, Views


@dataclass(frozen=True, kw_only=True)
class Among(Views):
    """`alone` for one medium, `together` for each of several.

    LLaVA-OneVision spends tiles on a single picture and one padded view on each of several
    (LLaVA-VL/LLaVA-NeXT@df17966 llava/train/train.py, `image_aspect_ratio` of multi-image samples).
    """

    alone: Views
    together: Views

    def __post_init__(self) -> None:
        if self.alone.scales != self.together.scales:
            raise SpecError(
                f"one connector reads both, but {type(self.alone).__name__} joins {self.alone.scales} scales on "
                f"channels and {type(self.together).__name__} {self.together.scales}; make them equal (copies=...)"
            )

    @property
    def scales(self) -> int:
        return self.alone.scales

    @property
    def learned(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.alone.learned, *self.together.learned)))

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        return self.alone.plan(media, sight)

    def among(self, count: int) -> Views:
        return self.alone if count == 1 else self.together

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(alone=self.alone.shrunk(size), together=self.together.shrunk(size))

    def rescaled(self, old: int, new: int) -> Self:
        return self.but(alone=self.alone.rescaled(old, new), together=self.together.rescaled(old, new))
