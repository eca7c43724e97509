"""One view of fixed size: the whole picture squashed, centre-cropped, or padded to a square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from omniform.geometry import Crop, Flat, Hw, MediaSize, Pad, Plan, Resize, Rgb, Step, View, flat_rows
from omniform.parts import Sight, Views


@dataclass(frozen=True, kw_only=True)
class Fixed(Views):
    """The whole picture as one view.

    Attributes:
        fit: "squash" ignores the aspect ratio; "crop" resizes the short side and cuts the centre (CLIP);
            "pad" makes a square first (LLaVA-1.5, arXiv:2310.03744).
        fill: colour of the padding; None is the encoder's mean colour.
    """

    fit: Literal["squash", "crop", "pad"]
    fill: Rgb | None = None

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        steps = self.steps(media.hw, sight)
        rows = flat_rows(sight.cells(sight.size))
        return Plan(views=(View(steps),), size=sight.size, blocks=(Flat(0, rows),))

    def steps(self, hw: Hw, sight: Sight) -> tuple[Step, ...]:
        if self.fit == "squash":
            return (Resize(sight.size),)
        if self.fit == "pad":
            square, pad = pad_to_square(hw, sight.mean_rgb if self.fill is None else self.fill)
            return (*pad, *crop_short_side(square, sight.size))
        return crop_short_side(hw, sight.size)


def pad_to_square(hw: Hw, fill: Rgb) -> tuple[Hw, tuple[Step, ...]]:
    """Centre on a square canvas; the odd pixel goes right or below."""
    side = max(hw)
    offset = (side - hw[0]) // 2, (side - hw[1]) // 2
    return (side, side), () if hw == (side, side) else (Pad((side, side), offset, fill),)


def crop_short_side(hw: Hw, size: Hw) -> tuple[Step, ...]:
    """Resize so that the short side fits, truncating the long one, then cut the centre (CLIPImageProcessor)."""
    short = min(hw)
    resized = (size[0] * hw[0] // short, size[0] * hw[1] // short)
    offset = (resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2
    return (Resize(resized),) if resized == size else (Resize(resized), Crop(offset, size))
