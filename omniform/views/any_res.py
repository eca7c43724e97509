"""Any resolution: an overview, then tiles of the best-fitting canvas with the padding cut off their feature map.

LLaVA-NeXT (haotian-liu/LLaVA@c121f04 llava/mm_utils.py:12-150, llava/model/llava_arch.py:100-205);
LLaVA-OneVision shrinks large maps (arXiv:2408.03326 section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod, sqrt
from typing import Self

from omniform.geometry import Crop, Flat, Hw, MediaSize, Mosaic, Pad, Plan, Resize, Rgb, SpecError, View
from omniform.parts import Shrunk, Sight, Views

SLACK = 1.1
"""A map is shrunk only when its sides exceed the limit by more than this factor."""


@dataclass(frozen=True, kw_only=True)
class AnyRes(Views):
    """Overview first, then the map of the tiles with a newline after each row.

    Attributes:
        grids: allowed canvases as (rows, columns) of tiles, in the order that breaks ties.
        max_tiles: the map is resampled bilinearly to about the cells of this many tiles; None keeps every cell.
        newline: name of the learned row after each map row; None leaves it out.
        fill: colour of the canvas.
    """

    grids: tuple[Hw, ...]
    max_tiles: int | None = None
    newline: str | None = "newline"
    fill: Rgb = (0, 0, 0)

    def __post_init__(self) -> None:
        if not self.grids or min(min(g) for g in self.grids) < 1:
            raise SpecError(f"grids of tiles must be (rows, columns) of at least 1, got {self.grids}")
        if self.max_tiles is not None and self.max_tiles < 1:
            raise SpecError(f"max_tiles {self.max_tiles}: give at least 1, or None to keep every cell")

    @property
    def learned(self) -> tuple[str, ...]:
        return (self.newline,) if self.newline else ()

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        cell, tile = sight.map("AnyRes"), sight.size
        rows, cols = self.best_grid(media.hw, tile)
        canvas = rows * tile[0], cols * tile[1]
        inner = fitted(media.hw, canvas)
        whole = (Resize(inner), Pad(canvas, ((canvas[0] - inner[0]) // 2, (canvas[1] - inner[1]) // 2), self.fill))
        cuts = [Crop((r * tile[0], c * tile[1]), tile) for r in range(rows) for c in range(cols)]
        crop = unpadded(media.hw, (rows * cell[0], cols * cell[1]))
        mosaic = Mosaic(1, (rows, cols), cell, crop, self._resampled(crop, cell), self.newline)
        return Plan(
            views=(View((Resize(tile),)), *(View((*whole, cut)) for cut in cuts)),
            size=tile,
            blocks=(Flat(0, prod(cell)), mosaic),
        )

    def best_grid(self, hw: Hw, tile: Hw) -> Hw:
        """The canvas that keeps most of the picture's pixels, then wastes least, then stands first."""

        def score(grid: Hw) -> tuple[int, int]:
            canvas = grid[0] * tile[0], grid[1] * tile[1]
            scale = min(canvas[1] / hw[1], canvas[0] / hw[0])
            kept = min(int(hw[1] * scale) * int(hw[0] * scale), prod(hw))
            return kept, kept - prod(canvas)

        return max(self.grids, key=score)

    def shrunk(self, size: Shrunk) -> Self:
        few = tuple(grid for grid in self.grids if prod(grid) <= 4)
        return self.but(grids=few) if size == "nano" and few else self

    def _resampled(self, crop: tuple[int, int, int, int], cell: Hw) -> Hw | None:
        height, width = crop[2:]
        if self.max_tiles is None:
            return None
        times = sqrt(height * width / (self.max_tiles * cell[0] ** 2))
        if times <= SLACK:
            return None
        return max(int(height // times), 1), max(int(width // times), 1)


def grids_up_to(rows: int, columns: int) -> tuple[Hw, ...]:
    """All grids up to a size, in the order of "(1x1),...,(6x6)": columns outside, rows inside."""
    return tuple((r, c) for c in range(1, columns + 1) for r in range(1, rows + 1))


def fitted(hw: Hw, canvas: Hw) -> Hw:
    """Largest size of the picture on the canvas; the free side is rounded up."""
    by_height, by_width = canvas[0] / hw[0], canvas[1] / hw[1]
    if by_width < by_height:
        return min(ceil(hw[0] * by_width), canvas[0]), canvas[1]
    return canvas[0], min(ceil(hw[1] * by_height), canvas[1])


def unpadded(hw: Hw, cells: Hw) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the map without padding.

    The kept side is truncated where `fitted` rounds up, and half of the difference, rounded down, goes on both sides:
    with an odd difference one row of padding stays.
    """
    height, width = cells
    if hw[1] / hw[0] > width / height:
        cut = (height - int(hw[0] * (width / hw[1]))) // 2
        return cut, 0, height - 2 * cut, width
    cut = (width - int(hw[1] * (height / hw[0]))) // 2
    return 0, cut, height, width - 2 * cut
