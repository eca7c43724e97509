"""Mixture of features: two encoders' cells, each through an MLP of its own, interleaved.

Eyes Wide Shut, arXiv:2401.06209 section 4.2; TinyLLaVA/TinyLLaVA_Factory@53f12c7 tinyllava/model/connector/mof_mlp.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omniform.connectors.mlp import Mlp
from omniform.geometry import Grid, SpecError, flat_rows
from omniform.parts import Connector


@dataclass(frozen=True, kw_only=True)
class MofMlp(Connector):
    """Cells alternate: first encoder, second encoder; both must give as many. There is no map afterwards."""

    implementation = "omniform.connectors.mof_mlp_module:MofMlpModule"
    needs: ClassVar[int] = 2

    depth: int = 2

    @property
    def title(self) -> str:
        return "MLP"

    def cells(self, grid: Grid, *others: Grid) -> Grid:
        if any(other != grid for other in others):
            raise SpecError(
                f"MofMlp interleaves equal maps, but the encoders give {' and '.join(map(str, (grid, *others)))}; "
                "choose view and patch sizes that give equal maps"
            )
        return (self.needs * flat_rows(grid),)

    def num_params(self, in_dim: int, out_dim: int, others: tuple[int, ...] = ()) -> int:
        return sum(Mlp(depth=self.depth).num_params(width, out_dim) for width in (in_dim, *others))

    def flops(  # type: ignore[override]  # of several grids
        self, grid: Grid, *more: Grid, in_dim: int, out_dim: int, others: tuple[int, ...] = ()
    ) -> int:
        return 2 * flat_rows(grid) * self.num_params(in_dim, out_dim, others)
