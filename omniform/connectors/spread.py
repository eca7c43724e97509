"""Several rows from one vector (GILL, arXiv:2305.17216 section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.geometry import Grid
from omniform.parts import Connector


@dataclass(frozen=True, kw_only=True)
class Spread(Connector):
    """One linear layer gives all rows of a medium at once; of several cells it reads the mean.

    kohjingyu/gill@4600b71 gill/models.py:125-148

    Attributes:
        positions: rows given.
    """

    implementation = "omniform.connectors.spread_module:SpreadModule"

    positions: int = 4

    @property
    def title(self) -> str:
        return "Linear"

    def cells(self, grid: Grid) -> Grid:
        return (self.positions,)

    def num_params(self, in_dim: int, out_dim: int) -> int:
        return (in_dim + 1) * self.positions * out_dim

    def flops(self, grid: Grid, in_dim: int, out_dim: int) -> int:
        return 2 * self.num_params(in_dim, out_dim)
