"""Neighbouring patches become one position (Qwen2-VL, arXiv:2409.12191 section 2.1).

huggingface/transformers@v4.45.2 src/transformers/models/qwen2_vl/modeling_qwen2_vl.py:277-292.
"""

from __future__ import annotations

from dataclasses import dataclass

from omniform.geometry import Grid, SpecError
from omniform.parts import Connector


@dataclass(frozen=True, kw_only=True)
class PatchMerger(Connector):
    """A norm of every cell, then `fold` x `fold` neighbours side by side through linear, GELU, linear."""

    implementation = "omniform.connectors.patch_merger_module:PatchMergerModule"

    fold: int = 2
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.fold < 1:
            raise SpecError(f"fold {self.fold}: give at least 1")

    @property
    def title(self) -> str:
        return "MLP"

    def cells(self, grid: Grid) -> Grid:
        if len(grid) != 2 or grid[0] % self.fold or grid[1] % self.fold:
            raise SpecError(
                f"PatchMerger joins {self.fold} x {self.fold} cells of a map, but the encoder gives {grid}; use views "
                "of a multiple of that many patches (Native), or DownsampleMlp, which pads"
            )
        return grid[0] // self.fold, grid[1] // self.fold

    def num_params(self, in_dim: int, out_dim: int) -> int:
        wide = in_dim * self.fold**2
        return 2 * in_dim + (wide + 1) * wide + (wide + 1) * out_dim

    def flops(self, grid: Grid, in_dim: int, out_dim: int) -> int:
        wide, cells = in_dim * self.fold**2, self.cells(grid)
        return 2 * cells[0] * cells[1] * wide * (wide + out_dim)
