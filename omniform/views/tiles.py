"""Tiles of one size that cover the squashed picture, each read on its own (InternVL 1.5, arXiv:2404.16821 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from typing import Self

from omniform.geometry import Block, Crop, Flat, Hw, MediaSize, Plan, Resize, SpecError, View, Words, flat_rows
from omniform.parts import Shrunk, Sight, Views


@dataclass(frozen=True, kw_only=True)
class Tiles(Views):
    """The picture squashed to the grid of tiles whose shape is closest to its own; an overview comes last.

    Attributes:
        min_tiles, max_tiles: tiles, the overview not counted.
        overview: whether the whole picture follows as one more view, where there is more than one tile.
        after: text after each view's rows; several are tokenized one by one.
    """

    min_tiles: int = 1
    max_tiles: int
    overview: bool = True
    after: str | tuple[str, ...] = ""

    def __post_init__(self) -> None:
        check_counts(self.min_tiles, self.max_tiles)

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        grid = best_grid(media.hw, sight.size, self.min_tiles, self.max_tiles)
        views = grid_views(grid, sight.size)
        if self.overview and len(views) > 1:
            views += grid_views((1, 1), sight.size)
        rows = flat_rows(sight.cells(sight.size))
        after = (self.after,) if isinstance(self.after, str) else self.after
        blocks: list[Block] = []
        for i in range(len(views)):
            blocks += (Flat(i, rows), *(Words(text) for text in after if text))
        return Plan(views=views, size=sight.size, blocks=tuple(blocks))

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(max_tiles=max(self.min_tiles, min(self.max_tiles, 4))) if size == "nano" else self


def check_counts(least: int, most: int) -> None:
    if not 1 <= least <= most:
        raise SpecError(f"{least} to {most} tiles: the least must be at least 1 and the most not below it")


def grid_views(grid: Hw, tile: Hw) -> tuple[View, ...]:
    """Views that cut the picture, squashed to (rows, columns) of tiles, row-major."""
    whole = Resize((grid[0] * tile[0], grid[1] * tile[1]))
    if grid == (1, 1):
        return (View((whole,)),)
    cuts = (Crop((r * tile[0], c * tile[1]), tile) for r in range(grid[0]) for c in range(grid[1]))
    return tuple(View((whole, cut)) for cut in cuts)


def best_grid(hw: Hw, tile: Hw, least: int, most: int) -> Hw:
    """(rows, columns) of the grid closest in aspect ratio.

    Of equally close grids the later candidate wins when the picture has more than half the pixels of its tiles
    (NVlabs/VILA@b760c34 llava/mm_utils.py:283-297).
    """
    best, closest = (1, 1), inf
    for rows, cols in candidates(least, most):
        distance = abs(hw[1] / hw[0] - cols / rows)
        large = prod(hw) > 0.5 * tile[1] * tile[1] * rows * cols
        if distance < closest or (distance == closest and large):
            best, closest = (rows, cols), distance
    return best


def candidates(least: int, most: int) -> tuple[Hw, ...]:
    """Grids (rows, columns) of `least` to `most` tiles, in the order in which the originals try them.

    They sort a set of (columns, rows) by the number of tiles; among equal numbers the set's order stays. It is the
    same in every run, because hashes of small integers are not salted; the tests pin it.
    """
    found = {
        (c, r)
        for n in range(least, most + 1)
        for c in range(1, n + 1)
        for r in range(1, n + 1)
        if least <= c * r <= most
    }
    return tuple((r, c) for c, r in sorted(found, key=prod))
