"""Average pooling of the map to a fixed number of cells, then an MLP (DeCo, arXiv:2405.20985 section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Self

from omniform.geometry import Grid, SpecError
from omniform.parts import Connector, Shrunk


@dataclass(frozen=True, kw_only=True)
class PooledMlp(Connector):
    """Adaptive pooling to a square of `positions`, then `depth` linear layers with exact GELU between.

    Where the sides do not divide, neighbouring windows overlap by a cell.
    """

    implementation = "omniform.connectors.pooled_mlp_module:PooledMlpModule"

    positions: int = 144
    depth: int = 2

    def __post_init__(self) -> None:
        if self.side**2 != self.positions:
            raise SpecError(f"positions {self.positions} form no square; give {self.side**2} or {(self.side + 1) ** 2}")

    @property
    def side(self) -> int:
        return isqrt(self.positions)

    @property
    def title(self) -> str:
        return "MLP + Adaptive Pooling"

    def cells(self, grid: Grid) -> Grid:
        if len(grid) != 2 or min(grid) < self.side:
            raise SpecError(
                f"PooledMlp pools a map to {self.side}x{self.side}, but the encoder gives {grid}; "
                "use an encoder whose map is at least as large, or fewer positions"
            )
        return self.side, self.side

    def num_params(self, in_dim: int, out_dim: int) -> int:
        return (in_dim + 1) * out_dim + (self.depth - 1) * (out_dim + 1) * out_dim

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(positions=min(self.positions, 4 if size == "tiny" else 16))
