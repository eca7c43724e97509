"""Sound as windows of the length that the encoder hears at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal, Self

from omniform.geometry import (
    Flat,
    MediaSize,
    Mono,
    Plan,
    Resample,
    Span,
    SpecError,
    Step,
    View,
    flat_rows,
    resampled_length,
)
from omniform.parts import Shrunk, Sight, Views


@dataclass(frozen=True, kw_only=True)
class Windows(Views):
    """One window after another at the encoder's rate, each with all its rows.

    Of a sound longer than one window every window has the encoder's length, the last ends in silence. A shorter sound
    is one view of its own length: encoders that need more add silence themselves.

    Attributes:
        most: most windows; what follows is not heard. None hears everything.
        least: seconds to which a shorter sound is lengthened by silence, one window at most.
        multiple: samples of which its length then becomes a multiple, by silence.
        mix: which channel is heard: the first, or the mean of all.
    """

    most: int | None = None
    least: float = 0.0
    multiple: int = 1
    mix: Literal["first", "mean"] = "mean"

    def __post_init__(self) -> None:
        if self.least < 0 or self.multiple < 1 or (self.most is not None and self.most < 1):
            raise SpecError(
                f"most {self.most}, least {self.least}, multiple {self.multiple}: give at least 1 window, no negative "
                "time and at least 1 sample"
            )

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        steps, samples = heard(self, media, sight, self.mix)
        window = sight.size[1]
        count = min(ceil(samples / window), self.most or samples)
        longer = ceil(max(samples, self.least * sight.rate) / self.multiple) * self.multiple
        length = window if count > 1 else min(longer, window)
        views = tuple(View((*steps, Span(i * window, length))) for i in range(count))
        rows = flat_rows(sight.cells((1, length)))
        return Plan(views=views, size=(1, length), blocks=tuple(Flat(i, rows) for i in range(count)))

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(most=min(self.most or 4, 4))


def heard(views: Views, media: MediaSize, sight: Sight, mix: Literal["first", "mean"]) -> tuple[tuple[Step, ...], int]:
    """Steps to one channel at the rate of what hears it, and how many samples it has then.

    Raises:
        SpecError: the medium is no sound, or what it is for does not hear.
    """
    if not (media.samples and sight.rate):
        who = "the encoder does not hear" if media.samples else "the medium is no sound"
        raise SpecError(f"{type(views).__name__} cuts sound for what hears, but {who}; use views for pictures")
    resample = (Resample(sight.rate),) if media.rate != sight.rate else ()
    return (Mono(mix), *resample), resampled_length(media.samples, media.rate, sight.rate)
