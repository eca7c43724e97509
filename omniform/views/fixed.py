"""One view of fixed size: the whole picture squashed, centre-cropped, or padded to a square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

from omniform.geometry import (
    Block,
    Crop,
    Flat,
    Hw,
    Learned,
    MediaSize,
    Pad,
    Plan,
    Resize,
    Rgb,
    Scale,
    Step,
    View,
    Words,
    flat_rows,
)
from omniform.parts import Shrunk, Sight, Views

Fit: TypeAlias = Literal["squash", "crop", "pad"]
"""How a picture becomes one view: "squash" ignores the aspect ratio; "crop" resizes the short side and cuts the centre
(CLIP); "pad" makes a square first (LLaVA-1.5, arXiv:2310.03744)."""
Rounding: TypeAlias = Literal["down", "nearest"]


@dataclass(frozen=True, kw_only=True)
class Fixed(Views):
    """The whole picture as one view, shown as often as the encoder needs for one set of features.

    Attributes:
        fill: colour of the padding; None is the encoder's mean colour.
        begin, newline: names of learned rows before and after the picture's rows.
        before, after: words around them.
        still: whether all the picture's rows stand at one position id (CogVLM, arXiv:2311.03079 section 2.2).
        rounding: of the long side in pixels, where the short side is resized to fit.
        middle: of half of an odd difference, where the centre is cut: torchvision takes the nearest even number.
        copies: times the features stand on channels, beside views of several scales (NVILA,
            NVlabs/VILA@b760c34 llava/model/llava_arch.py:290-294).
    """

    one_size = True

    fit: Fit
    fill: Rgb | None = None
    begin: str | None = None
    newline: str | None = None
    before: str = ""
    after: str = ""
    still: bool = False
    rounding: Rounding = "down"
    middle: Rounding = "down"
    copies: int = 1

    @property
    def scales(self) -> int:
        return self.copies

    @property
    def learned(self) -> tuple[str, ...]:
        return tuple(name for name in (self.begin, self.newline) if name)

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        view = View(fit_steps(self.fit, self.fill, media.hw, sight, self.rounding, self.middle))
        blocks: tuple[Block, ...] = (Flat(0, flat_rows(sight.cells(sight.size)), self.still),)
        if self.begin:
            blocks = (Learned(self.begin), *blocks)
        if self.newline:
            blocks += (Learned(self.newline),)
        blocks = (*((Words(self.before),) * bool(self.before)), *blocks, *((Words(self.after),) * bool(self.after)))
        return Plan(views=(view,) * sight.together, size=sight.size, blocks=blocks, scales=copied(1, self.copies))

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(copies=min(self.copies, 2)) if size == "nano" else self


def copied(views: int, copies: int) -> tuple[Scale, ...]:
    """Scales that repeat the features of all views on channels; none for a single copy."""
    return (Scale(0, (views, 1)),) * copies if copies > 1 else ()


def fit_steps(
    fit: Fit, fill: Rgb | None, hw: Hw, sight: Sight, rounding: Rounding = "down", middle: Rounding = "down"
) -> tuple[Step, ...]:
    """Steps from a picture of (height, width) to one view."""
    if fit == "squash":
        return (Resize(sight.size),)
    if fit == "pad":
        square, pad = pad_to_square(hw, sight.mean_rgb if fill is None else fill)
        return (*pad, *crop_short_side(square, sight.size))
    return crop_short_side(hw, sight.size, rounding, middle)


def pad_to_square(hw: Hw, fill: Rgb) -> tuple[Hw, tuple[Step, ...]]:
    """Centre on a square canvas; the odd pixel goes right or below."""
    side = max(hw)
    offset = (side - hw[0]) // 2, (side - hw[1]) // 2
    return (side, side), () if hw == (side, side) else (Pad((side, side), offset, fill),)


def crop_short_side(hw: Hw, size: Hw, rounding: Rounding = "down", middle: Rounding = "down") -> tuple[Step, ...]:
    """Resize so that the short side fits, then cut the centre; the long side is truncated (CLIPImageProcessor)."""
    short = min(hw)
    if rounding == "down":
        resized = (size[0] * hw[0] // short, size[0] * hw[1] // short)
    else:
        resized = (round(size[0] / short * hw[0]), round(size[0] / short * hw[1]))
    over = resized[0] - size[0], resized[1] - size[1]
    top, left = (round(n / 2) if middle == "nearest" else n // 2 for n in over)
    offset = top, left
    return (Resize(resized),) if resized == size else (Resize(resized), Crop(offset, size))
