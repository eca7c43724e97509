"""A learned row before a medium's rows and one behind (Qwen-Audio, QwenLM/Qwen-Audio@b50fb95 audio.py:350-420)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.geometry import Grid, SpecError, flat_rows
from omniform.parts import Connector, Shrunk


@dataclass(frozen=True, kw_only=True)
class Bracketed(Connector):
    """Rows of another connector between two learned ones, which stand for the signs around the medium.

    Attributes:
        inner: what gives the rows.
    """

    implementation = "omniform.connectors.bracketed_module:BracketedModule"

    inner: Connector

    def __post_init__(self) -> None:
        if self.inner.needs > 1:
            raise SpecError(f"Bracketed reads one encoder, but {type(self.inner).__name__} needs {self.inner.needs}")

    @property
    def title(self) -> str:
        return self.inner.title

    def cells(self, grid: Grid) -> Grid:
        return (flat_rows(self.inner.cells(grid)) + 2,)

    def num_params(self, in_dim: int, out_dim: int) -> int:
        return self.inner.num_params(in_dim, out_dim) + 2 * out_dim

    def flops(self, grid: Grid, in_dim: int, out_dim: int) -> int:
        return self.inner.flops(grid, in_dim, out_dim)

    def idle(self) -> tuple[tuple[str, int], ...]:
        return tuple((f"inner.{prefix}", number) for prefix, number in self.inner.idle())

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(inner=self.inner.shrunk(size))
