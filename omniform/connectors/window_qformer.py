"""Window-level Q-Former: queries read one short window of the features after another (arXiv:2310.13289 section 3.1).

bytedance/SALMONN@a58bba7 models/salmonn.py:203-260.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

from omniform.connectors.qformer import QFormer
from omniform.geometry import Grid, SpecError, flat_rows
from omniform.parts import Connector, Shrunk


@dataclass(frozen=True, kw_only=True)
class WindowQFormer(Connector):
    """Two encoders' features are normed, the shorter followed by zeros, joined on channels and cut into windows.

    Cells are taken in a row, whatever they stand for; what does not fill a window at the end is dropped.

    Attributes:
        inner: reads each window by itself, without a norm of its own.
        kernel, stride: cells of a window, and from one to the next.
    """

    implementation = "omniform.connectors.window_qformer_module:WindowQFormerModule"
    needs: ClassVar[int] = 2

    inner: QFormer
    kernel: int = 17
    stride: int = 17

    def __post_init__(self) -> None:
        if min(self.kernel, self.stride) < 1 or self.inner.normed or self.inner.words:
            raise SpecError(
                f"windows of {self.kernel} cells every {self.stride}: give at least 1, and an inner Q-Former without "
                "words and with normed=False"
            )

    @property
    def title(self) -> str:
        return "Window-level Q-Former"

    def windows(self, *grids: Grid) -> int:
        """How many windows the features fill.

        Raises:
            SpecError: there are fewer cells than a window has.
        """
        cells = max(map(flat_rows, grids))
        if cells < self.kernel:
            raise SpecError(f"windows of {self.kernel} cells, but the encoders give {cells}; use a smaller kernel")
        return (cells - self.kernel) // self.stride + 1

    def cells(self, grid: Grid, *others: Grid) -> Grid:
        return (self.windows(grid, *others) * prod(self.inner.cells((self.kernel,))),)

    def idle(self) -> tuple[tuple[str, int], ...]:
        return tuple((f"former.{prefix}", number) for prefix, number in self.inner.idle())

    def num_params(self, in_dim: int, out_dim: int, others: tuple[int, ...] = ()) -> int:
        total = in_dim + sum(others)
        return 2 * total + self.inner.num_params(total, out_dim)

    def flops(  # type: ignore[override]  # of several grids
        self, grid: Grid, *more: Grid, in_dim: int, out_dim: int, others: tuple[int, ...] = ()
    ) -> int:
        return self.windows(grid, *more) * self.inner.flops((self.kernel,), in_dim + sum(others), out_dim)

    def shrunk(self, size: Shrunk) -> Self:
        inner = self.inner.shrunk(size).but(positions=min(self.inner.positions, 2))
        return self.but(inner=inner, kernel=min(self.kernel, 6), stride=min(self.stride, 6))
