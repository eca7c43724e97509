"""Clips spread over a sound or a video, whose features are averaged before the connector (ImageBind, arXiv:2305.05665).

facebookresearch/ImageBind@53680b0 imagebind/data.py:118-165, 187-286, 304-369. Clips start as
facebookresearch/pytorchvideo@28fe037 pytorchvideo/data/clip_sampling.py has them, in fractions of rounded seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Literal, Self

from omniform.geometry import (
    Crop,
    Flat,
    Hw,
    MediaSize,
    Mono,
    Plan,
    Resample,
    Resize,
    Span,
    SpecError,
    Step,
    View,
    flat_rows,
    resampled_length,
)
from omniform.parts import Shrunk, Sight, Views
from omniform.views.frames import spread


@dataclass(frozen=True, kw_only=True)
class SoundClips(Views):
    """Clips of the length that the encoder hears; a sound that is no longer is one clip of its own length.

    Attributes:
        clips: of a longer sound; the first begins with it, the last ends with it.
        least: seconds to which a shorter sound is lengthened by silence.
        mix: which channel is heard: the first, or the mean of all.
    """

    clips: int = 3
    least: float = 0.025
    mix: Literal["first", "mean"] = "first"

    def __post_init__(self) -> None:
        if self.clips < 1 or self.least < 0:
            raise SpecError(f"{self.clips} clips, least {self.least}: give at least 1 clip and no negative time")

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        if not (media.samples and sight.rate):
            who = "the encoder does not hear" if media.samples else "the medium is no sound"
            raise SpecError(f"SoundClips cuts sound for an encoder that hears, but {who}; use views for pictures")
        window = sight.size[1]
        samples = resampled_length(media.samples, media.rate, sight.rate)
        length = min(max(samples, ceil(self.least * sight.rate)), window)
        times = starts(samples / sight.rate, window / sight.rate, self.clips)
        resample = (Resample(sight.rate),) if media.rate != sight.rate else ()
        steps: tuple[Step, ...] = (Mono(self.mix), *resample)
        views = tuple(View((*steps, Span(int(time * sight.rate), length))) for time in times)
        blocks = (Flat(0, flat_rows(sight.cells((1, length)))),)
        return Plan(views=views, size=(1, length), blocks=blocks, averaged=len(views) > 1)

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(clips=min(self.clips, 2))


@dataclass(frozen=True, kw_only=True)
class VideoClips(Views):
    """Of each clip as many frames as the encoder reads together, from its first to its last, in several crops each.

    The short side of a frame is resized to fit without smoothing, its long side cut at both ends and in the middle.

    Attributes:
        seconds: length of a clip. Without a known rate, frames count as one a second.
        clips: of a longer video; the first begins with it, the last ends with it.
        crops: of a frame that is no square: 3, or the middle one alone.
    """

    seconds: float = 2.0
    clips: int = 5
    crops: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        if self.clips < 1 or self.seconds <= 0:
            raise SpecError(f"{self.clips} clips of {self.seconds} seconds: give at least 1 clip of some length")

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        size, offsets = side_cuts(media.hw, sight.size)
        cuts = offsets if self.crops == 3 else (offsets[len(offsets) // 2],)
        crops = [(Resize(size, smooth=False), Crop(offset, sight.size)) for offset in cuts]
        shown = self.frame_numbers(media, sight.together)
        views = tuple(View(crop, frame) for frames in shown for crop in crops for frame in frames)
        blocks = (Flat(0, flat_rows(sight.cells(sight.size))),)
        return Plan(views=views, size=sight.size, blocks=blocks, averaged=len(views) > sight.together)

    def frame_numbers(self, media: MediaSize, together: int) -> list[tuple[int, ...]]:
        """Frames of each clip; a clip between two frames is the one before."""
        rate, found = media.fps or 1.0, []
        for time in starts(media.frames / rate, self.seconds, self.clips):
            first = min(ceil(rate * time), media.frames - 1)
            stop = max(min(ceil(rate * (time + Fraction(self.seconds))), media.frames), first + 1)
            found.append(tuple(first + number for number in spread(stop - first, together, "down")))
        return found

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(clips=min(self.clips, 2))


def starts(duration: float, seconds: float, clips: int) -> list[Fraction]:
    """Times at which clips begin; one alone where the medium is no longer than a clip, as all would be equal."""
    last = Fraction(max(duration - seconds, 0.0))
    return [last / max(clips - 1, 1) * number for number in range(clips if last else 1)]


def side_cuts(hw: Hw, size: Hw) -> tuple[Hw, tuple[Hw, ...]]:
    """Size after the short side fits, and where crops begin: at both ends of the long side and, rounded up, in between;
    one for a square, where all would be equal."""
    height, width = hw
    side = size[0]
    resized = (floor(height / width * side), side) if width < height else (side, floor(width / height * side))
    over = max(resized) - side
    along = (0, ceil(over / 2), over) if over else (0,)
    return resized, tuple((at, 0) if width < height else (0, at) for at in along)
