"""What the two abstractors share: a map with learned positions becomes a square of fewer cells (arXiv:2312.06742)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt, prod
from typing import ClassVar

from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Connector, Shrunk


@dataclass(frozen=True, kw_only=True)
class Abstractor(Connector):
    """A connector that reads a map and gives a square of `positions` cells.

    Attributes:
        positions: cells given; a square number.
        trained: (rows, columns) of the map whose cells have learned positions; for other maps these are interpolated.
    """

    abstract: ClassVar[bool] = True

    positions: int = 144
    trained: Hw = (16, 16)

    def __post_init__(self) -> None:
        if self.side**2 != self.positions:
            raise SpecError(f"positions {self.positions} form no square; give {self.side**2} or {(self.side + 1) ** 2}")

    @property
    def side(self) -> int:
        return isqrt(self.positions)

    def cells(self, grid: Grid) -> Grid:
        if len(grid) != 2 or min(grid) < self.side:
            raise SpecError(
                f"{type(self).__name__} makes {self.side}x{self.side} cells of a map, but the encoder gives {grid}; "
                "use an encoder whose map is at least as large, or fewer positions"
            )
        return self.side, self.side

    def position_params(self, width: int) -> int:
        """Parameters of the learned positions of the map."""
        return prod(self.trained) * width


SIDES: dict[Shrunk, int] = {"tiny": 4, "nano": 8}
"""Sides of the maps that shrunk encoders give."""
