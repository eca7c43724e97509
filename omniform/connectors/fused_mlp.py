"""Features of several encoders side by side on channels, then an MLP that first widens (Prismatic, arXiv:2402.07865).

h-zhao1997/cobra@4b81082 cobra/util/nn_utils.py:40-59.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omniform.geometry import Grid, SpecError, flat_rows
from omniform.parts import Connector


@dataclass(frozen=True, kw_only=True)
class FusedMlp(Connector):
    """Two encoders' equal maps joined on channels; three linear layers with exact GELU between, cell by cell.

    Attributes:
        expand: width of the first layer / joined width.
    """

    implementation = "omniform.connectors.fused_mlp_module:FusedMlpModule"
    needs: ClassVar[int] = 2

    expand: int = 4

    @property
    def title(self) -> str:
        return "MLP"

    def widths(self, in_dim: int, out_dim: int, others: tuple[int, ...]) -> tuple[int, ...]:
        """Widths between and around the linear layers."""
        joined = in_dim + sum(others)
        return joined, self.expand * joined, out_dim, out_dim

    def cells(self, grid: Grid, *others: Grid) -> Grid:
        if any(other != grid for other in others):
            raise SpecError(
                f"FusedMlp joins equal maps, but the encoders give {' and '.join(map(str, (grid, *others)))}; "
                "choose view and patch sizes that give equal maps"
            )
        return grid

    def num_params(self, in_dim: int, out_dim: int, others: tuple[int, ...] = ()) -> int:
        first, second, third, last = self.widths(in_dim, out_dim, others)
        return (first + 1) * second + (second + 1) * third + (third + 1) * last

    def flops(  # type: ignore[override]  # of several grids
        self, grid: Grid, *more: Grid, in_dim: int, out_dim: int, others: tuple[int, ...] = ()
    ) -> int:
        return 2 * flat_rows(grid) * self.num_params(in_dim, out_dim, others)
