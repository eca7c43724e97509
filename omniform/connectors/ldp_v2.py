"""Lightweight downsample projector, second version (MobileVLM V2, arXiv:2402.03766 section 3.2).

Meituan-AutoML/MobileVLM@688fdec mobilevlm/model/vision_projector.py:38-102; of two encoders joined on channels
h-zhao1997/cobra@4b81082 cobra/util/nn_utils.py:82-155.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from omniform.geometry import Grid, SpecError, flat_rows
from omniform.parts import Connector, Shrunk


@dataclass(frozen=True, kw_only=True)
class LdpV2(Connector):
    """Two linear layers with exact GELU between, averages over a fixed map, and a depthwise 3x3 convolution added.

    Attributes:
        side: rows and columns after averaging, whatever the map before.
    """

    implementation = "omniform.connectors.ldp_v2_module:LdpV2Module"

    side: int = 12

    @property
    def title(self) -> str:
        return "LDP v2"

    def widths(self, in_dim: int, out_dim: int, others: tuple[int, ...] = ()) -> tuple[int, int, int]:
        """Widths before, between and after the linear layers."""
        return in_dim, out_dim, out_dim

    def cells(self, grid: Grid, *others: Grid) -> Grid:
        if len(grid) != 2 or any(other != grid for other in others):
            raise SpecError(
                f"{type(self).__name__} averages over equal maps, but the encoders give "
                f"{' and '.join(map(str, (grid, *others)))}; choose encoders that keep a map, of equal sizes"
            )
        return self.side, self.side

    def num_params(self, in_dim: int, out_dim: int, others: tuple[int, ...] = ()) -> int:
        return self._mlp_params(in_dim, out_dim, others) + 10 * out_dim

    def _mlp_params(self, in_dim: int, out_dim: int, others: tuple[int, ...]) -> int:
        first, hidden, last = self.widths(in_dim, out_dim, others)
        return (first + 1) * hidden + (hidden + 1) * last

    def flops(  # type: ignore[override]  # of several grids
        self, grid: Grid, *more: Grid, in_dim: int, out_dim: int, others: tuple[int, ...] = ()
    ) -> int:
        return 2 * flat_rows(grid) * self._mlp_params(in_dim, out_dim, others) + 18 * self.side**2 * out_dim

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(side=min(self.side, 2 if size == "tiny" else 4))


@dataclass(frozen=True, kw_only=True)
class FusedLdpV2(LdpV2):
    """Of two encoders' equal maps joined on channels.

    Attributes:
        expand: width between the linear layers / joined width.
    """

    needs: ClassVar[int] = 2

    expand: int = 4

    def widths(self, in_dim: int, out_dim: int, others: tuple[int, ...] = ()) -> tuple[int, int, int]:
        joined = in_dim + sum(others)
        return joined, self.expand * joined, out_dim
