"""Scales of growing size, the last in the picture's own shape, joined on channels (NVILA, arXiv:2412.04468 2.1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import Self

from omniform.geometry import Block, MediaSize, Mosaic, Plan, Scale, SpecError, Words
from omniform.parts import Shrunk, Sight, Views
from omniform.views.tiles import best_grid, grid_views


@dataclass(frozen=True, kw_only=True)
class DynamicS2(Views):
    """Squares of 1, 2, ... tiles a side, then a last grid of at least as many tiles that is closest in shape.

    The map of the last grid goes through the connector tile by tile and is read row-major as a whole
    (NVlabs/VILA@b760c34 llava/mm_utils.py:345-420, llava/model/llava_arch.py:285-390).

    Attributes:
        sides: tiles a side of the scales, in growing order; the last is the least area of the last grid.
        max_tiles: most tiles of the last grid.
        after: text after the rows.
    """

    sides: tuple[int, ...] = (1, 2, 3)
    max_tiles: int = 12
    after: str = ""

    def __post_init__(self) -> None:
        if not self.sides or any(a >= b for a, b in pairwise((0, *self.sides))):
            raise SpecError(f"sides {self.sides} must grow from at least 1")
        if self.max_tiles < self.sides[-1] ** 2:
            raise SpecError(
                f"max_tiles {self.max_tiles} is below the last scale's {self.sides[-1]}x{self.sides[-1]} tiles; "
                f"give at least {self.sides[-1] ** 2}"
            )

    @property
    def scales(self) -> int:
        return len(self.sides)

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        cell = sight.map("DynamicS2")
        last = best_grid(media.hw, sight.size, self.sides[-1] ** 2, self.max_tiles)
        grids = (*((side, side) for side in self.sides[:-1]), last)
        firsts = accumulate((prod(g) for g in grids[:-1]), initial=0)
        blocks: tuple[Block, ...] = (Mosaic(0, last, cell),)
        return Plan(
            views=tuple(view for grid in grids for view in grid_views(grid, sight.size)),
            size=sight.size,
            blocks=(*blocks, Words(self.after)) if self.after else blocks,
            scales=tuple(Scale(first, grid) for first, grid in zip(firsts, grids, strict=True)),
        )

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(sides=(1, 2), max_tiles=6) if size == "nano" and len(self.sides) > 2 else self
