"""Video as frames: which frames are seen, and how each frame's map is pooled and separated."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal, Self, TypeAlias

from omniform.geometry import Block, Flat, Learned, MediaSize, Mosaic, Plan, Rgb, SpecError, View, Words, flat_rows
from omniform.parts import Shrunk, Sight, Views
from omniform.views.fixed import Fit, copied, fit_steps

Rounding: TypeAlias = Literal["down", "nearest"]


@dataclass(frozen=True, kw_only=True)
class Frames(Views):
    """Frames of a video, one view each.

    Attributes:
        most: most frames seen.
        per_second: frames seen a second while `most` suffices; without a known rate, every frame counts. None always
            spreads `most` frames over the video.
        rounding: of the frame numbers that are spread.
        repeat: whether a shorter video is spread over `most` frames all the same, by showing frames again; a frame
            shown again is encoded once.
        fit, fill: how a frame becomes a view, as in `Fixed`.
        pool: each map is resampled bilinearly to 1/pool of its sides, rounded up (LLaVA-OneVision,
            LLaVA-VL/LLaVA-NeXT@df17966 llava/model/llava_arch.py:170-192).
        newline: name of the learned row.
        newline_at: where it stands: after all frames, after each frame, or after each row of each frame.
        after: text after each frame.
        between: text between frames.
        copies: times the features stand on channels, as in `Fixed`.
    """

    most: int
    per_second: float | None = None
    rounding: Rounding = "down"
    repeat: bool = False
    fit: Fit = "squash"
    fill: Rgb | None = None
    pool: int = 1
    newline: str | None = None
    newline_at: Literal["end", "frame", "row"] = "end"
    after: str = ""
    between: str = ""
    copies: int = 1

    def __post_init__(self) -> None:
        if min(self.most, self.pool, self.copies) < 1:
            raise SpecError(f"most {self.most}, pool {self.pool}, copies {self.copies}: each must be at least 1")
        if self.per_second is not None and self.per_second <= 0:
            raise SpecError(f"per_second {self.per_second}: give a positive rate, or None to spread {self.most} frames")

    @property
    def scales(self) -> int:
        return self.copies

    @property
    def learned(self) -> tuple[str, ...]:
        return (self.newline,) if self.newline else ()

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        shown = frame_numbers(media, self.most, self.per_second, self.rounding, self.repeat)
        seen = tuple(dict.fromkeys(shown))
        steps = fit_steps(self.fit, self.fill, media.hw, sight)
        blocks: list[Block] = []
        for frame in shown:
            blocks += [Words(self.between)] if self.between and blocks else []
            blocks += self._frame(seen.index(frame), sight)
        if self.newline and self.newline_at == "end":
            blocks.append(Learned(self.newline))
        views = tuple(View(steps, frame) for frame in seen)
        return Plan(views=views, size=sight.size, blocks=tuple(blocks), scales=copied(len(views), self.copies))

    def _frame(self, view: int, sight: Sight) -> list[Block]:
        """The blocks of one frame."""
        after: list[Block] = [Words(self.after)] if self.after else []
        if self.newline and self.newline_at == "frame":
            after.insert(0, Learned(self.newline))
        by_row = self.newline if self.newline_at == "row" else None
        if self.pool == 1 and not by_row:
            return [Flat(view, flat_rows(sight.cells(sight.size))), *after]
        height, width = sight.map("Frames with pooling or rows")
        pooled = (ceil(height / self.pool), ceil(width / self.pool)) if self.pool > 1 else None
        return [Mosaic(view, (1, 1), (height, width), resize=pooled, newline=by_row), *after]

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(most=min(self.most, 8), copies=min(self.copies, 2)) if size == "nano" else self


def frame_numbers(
    media: MediaSize, most: int, per_second: float | None = None, rounding: Rounding = "down", repeat: bool = False
) -> tuple[int, ...]:
    """Numbers of the frames to show, in order; arguments as in `Frames`."""
    if per_second is not None:
        step = max(round(media.fps / per_second), 1) if media.fps else 1
        paced = tuple(range(0, media.frames, step))
        if len(paced) <= most:
            return paced
    return spread(media.frames, most if repeat else min(most, media.frames), rounding)


def spread(total: int, number: int, rounding: Rounding) -> tuple[int, ...]:
    """`number` frame numbers evenly from the first to the last, as numpy.linspace computes them."""
    if number == 1:
        return (0,)
    step = (total - 1) / (number - 1)
    whole = int if rounding == "down" else round
    return (*(whole(i * step) for i in range(number - 1)), total - 1)
