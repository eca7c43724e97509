"""Patch info mining: each coarse cell reads the fine cells under it, then an MLP (arXiv:2403.18814 section 3.2).

dvlab-research/MGM@769820c mgm/model/mgm_arch.py:139-152, 236-311.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

from omniform.connectors.mlp import Mlp
from omniform.geometry import Grid, Hw, SpecError, flat_rows
from omniform.parts import Connector


@dataclass(frozen=True, kw_only=True)
class PatchMining(Connector):
    """Attention of one head from a cell of the first encoder to the second's cells that cover the same pixels.

    What is read is added to the cell itself; then come `depth` linear layers with exact GELU between. The first
    encoder's cells are a map, or (pieces, rows, columns): a square of crops, after the whole picture made small if
    there is one piece more; the whole reads the second encoder's map made as much smaller, and there is no map
    afterwards.
    """

    implementation = "omniform.connectors.patch_mining_module:PatchMiningModule"
    needs: ClassVar[int] = 2

    depth: int = 2

    @property
    def title(self) -> str:
        return "Cross-Attention + MLP"

    def cells(self, grid: Grid, *others: Grid) -> Grid:
        self.under(grid, *others)
        return grid if len(grid) == 2 else (flat_rows(grid),)

    def under(self, grid: Grid, *others: Grid) -> Hw:
        """(rows, columns) of fine cells under one coarse cell.

        Raises:
            SpecError: the fine map does not divide evenly.
        """
        coarse, fine = whole_map(grid), others[0] if others else ()
        if len(coarse) != 2 or len(fine) != 2 or fine[0] % coarse[0] or fine[1] % coarse[1]:
            raise SpecError(
                f"PatchMining reads a fine map under the cells of a coarse one, but the encoders give {grid} and "
                f"{fine}; choose view and patch sizes whose maps divide"
            )
        return fine[0] // coarse[0], fine[1] // coarse[1]

    def num_params(self, in_dim: int, out_dim: int, others: tuple[int, ...] = ()) -> int:
        mined = sum(2 * width + (width + 1) * in_dim for width in (in_dim, *others, *others))
        return mined + Mlp(depth=self.depth).num_params(in_dim, out_dim)

    def flops(  # type: ignore[override]  # of several grids
        self, grid: Grid, *more: Grid, in_dim: int, out_dim: int, others: tuple[int, ...] = ()
    ) -> int:
        coarse, fine = flat_rows(grid), sum(map(flat_rows, more))
        if len(grid) == 3 and overviews(grid[0]):
            fine += fine // isqrt(grid[0]) ** 2  # the smaller map under the whole
        once = in_dim * in_dim + in_dim * out_dim + (self.depth - 1) * out_dim * out_dim
        return 2 * (coarse * once + fine * sum(2 * (width + 1) * in_dim for width in others))


def overviews(pieces: int) -> int:
    """How many of so many pieces are the whole picture: one where the others form a square."""
    return pieces - isqrt(pieces) ** 2


def whole_map(grid: Grid) -> Grid:
    """The map that crops form side by side; () where the pieces form no square."""
    if len(grid) != 3:
        return grid
    pieces, rows, columns = grid
    side = isqrt(pieces)
    return (side * rows, side * columns) if overviews(pieces) in (0, 1) else ()
