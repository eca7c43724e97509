"""Native resolution: every picture keeps its size, but for rounding to whole cells and a budget of pixels.

Qwen2-VL, arXiv:2409.12191 section 2.1; QwenLM/Qwen2-VL@35ba6e1 qwen-vl-utils/src/qwen_vl_utils/vision_process.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, prod, sqrt
from typing import Self

from omniform.geometry import Hw, MediaSize, Plan, Resize, SpecError, View, Volume
from omniform.parts import Sight, Views
from omniform.views.frames import spread

LONGEST = 200
"""Largest aspect ratio that is read."""


@dataclass(frozen=True, kw_only=True)
class Native(Views):
    """One view as large as the picture, shown as often as the encoder needs for one set of features.

    Attributes:
        min_pixels, max_pixels: area of a view at least and at most, but for rounding.
    """

    min_pixels: int
    max_pixels: int

    def __post_init__(self) -> None:
        _check_budget(self.min_pixels, self.max_pixels)

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        size = fitted(media.hw, cell_side(sight), self.min_pixels, self.max_pixels)
        return pictures((0,) * sight.together, size, sight)

    def rescaled(self, old: int, new: int) -> Self:
        return self.but(min_pixels=_area(self.min_pixels, old, new), max_pixels=_area(self.max_pixels, old, new))


@dataclass(frozen=True, kw_only=True)
class NativeFrames(Views):
    """Frames of a video, all of one size that depends on their number.

    Attributes:
        per_second: frames seen a second; without a known rate every frame is seen, the last as often as the encoder
            needs to fill its last set of features.
        least, most: frames at least and at most; never more than the video has.
        min_pixels, max_pixels: area of a frame at least and at most.
        total_pixels: area at most of as many frames as make one set of features, summed over all of these.
    """

    per_second: float = 2.0
    least: int = 4
    most: int = 768
    min_pixels: int
    max_pixels: int
    total_pixels: int

    def __post_init__(self) -> None:
        _check_budget(self.min_pixels, self.max_pixels)
        if not 1 <= self.least <= self.most or self.per_second <= 0:
            raise SpecError(
                f"{self.least} to {self.most} frames, {self.per_second} a second: the least must be at least 1, the "
                "most not below it, the rate positive"
            )

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        shown = self.frame_numbers(media, sight.together)
        share = self.total_pixels / len(shown) * sight.together
        # lines 263-265: the smallest area wins over the share of a long video
        most = max(min(self.max_pixels, share), int(self.min_pixels * 1.05))
        size = fitted(media.hw, cell_side(sight), self.min_pixels, most)
        return pictures(shown, size, sight)

    def frame_numbers(self, media: MediaSize, together: int) -> tuple[int, ...]:
        """Numbers of the frames to show, a multiple of `together` of them (lines 153-159, 196; without a rate as a
        list of pictures, lines 297-299)."""
        if media.fps is None:
            last = media.frames - 1
            return (*range(media.frames), *(last,) * (-media.frames % together))
        least = ceil(self.least / together) * together
        most = min(self.most, media.frames) // together * together
        wanted = round(min(max(media.frames / media.fps * self.per_second, least), most) / together) * together
        if not together <= wanted <= media.frames:
            return (media.frames - 1,) * together  # shorter than one set of features: the original refuses it
        return spread(media.frames, wanted, "nearest")

    def rescaled(self, old: int, new: int) -> Self:
        areas = {name: _area(getattr(self, name), old, new) for name in ("min_pixels", "max_pixels", "total_pixels")}
        return self.but(**areas)


def cell_side(sight: Sight) -> int:
    """Pixels that a cell after the connector stands for, on each side."""
    return sight.size[0] // sight.map("Native")[0]


def pictures(shown: tuple[int, ...], size: Hw, sight: Sight) -> Plan:
    """Frames of one size, and the map over time that their features form."""
    rows, columns = sight.cells(size)
    views = tuple(View((Resize(size),), frame) for frame in shown)
    return Plan(views=views, size=size, blocks=(Volume(0, len(shown) // sight.together, (rows, columns)),))


def fitted(hw: Hw, multiple: int, least: float, most: float) -> Hw:
    """Sides rounded to multiples, and scaled where their area is outside the budget (lines 51-84).

    Raises:
        SpecError: one side is more than 200 times the other.
    """
    if max(hw) / min(hw) > LONGEST:
        raise SpecError(f"{hw[1]}x{hw[0]}: one side is more than {LONGEST} times the other; cut it into several")
    height, width = (max(multiple, round(side / multiple) * multiple) for side in hw)
    if height * width > most:
        scale = sqrt(prod(hw) / most)
        # at least one cell; the original comes to nothing there
        height, width = (max(multiple, floor(side / scale / multiple) * multiple) for side in hw)
    elif height * width < least:
        scale = sqrt(least / prod(hw))
        height, width = (ceil(side * scale / multiple) * multiple for side in hw)
    return height, width


def _area(pixels: int, old: int, new: int) -> int:
    return max(1, pixels * new**2 // old**2)


def _check_budget(least: int, most: int) -> None:
    if not 1 <= least <= most:
        raise SpecError(f"{least} to {most} pixels: the least must be at least 1 and the most not below it")
