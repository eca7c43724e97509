"""C-Abstractor: convolutions, pooling, convolutions (arXiv:2312.06742 section 3.2.1).

khanrc/honeybee@68a8d84 honeybee/projectors/projectors.py:15-177; its blocks are RegNet's (arXiv:2003.13678) as timm
builds them without a group size: the 3x3 convolution is depthwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.connectors.abstractor import SIDES, Abstractor
from omniform.geometry import Grid, flat_rows
from omniform.parts import Shrunk

SQUEEZE = 4
"""Channels of a block over those of its squeeze-and-excitation."""


@dataclass(frozen=True, kw_only=True)
class CAbstractor(Abstractor):
    """`depth` blocks, adaptive average pooling, `depth` blocks, then linear layers with SiLU between.

    Attributes:
        width: channels of the blocks.
        mlp_depth: linear layers at the end.
    """

    implementation = "omniform.connectors.c_abstractor_module:CAbstractorModule"

    depth: int = 3
    width: int = 1024
    mlp_depth: int = 2

    @property
    def title(self) -> str:
        return "C-Abstractor"

    def blocks(self, in_dim: int) -> tuple[tuple[int, int], ...]:
        """(in, out) channels of the blocks before the pooling."""
        return tuple((in_dim if i == 0 else self.width, self.width) for i in range(self.depth))

    def num_params(self, in_dim: int, out_dim: int) -> int:
        before = sum(_params(a, b) for a, b in self.blocks(in_dim))
        after = self.depth * _params(self.width, self.width)
        return self.position_params(in_dim) + before + after + self._readout(out_dim) + self.mlp_depth * out_dim

    def flops(self, grid: Grid, in_dim: int, out_dim: int) -> int:
        before = sum(_flops(flat_rows(grid), a, b) for a, b in self.blocks(in_dim))
        after = self.depth * _flops(self.positions, self.width, self.width)
        return before + after + 2 * self.positions * self._readout(out_dim)

    def _readout(self, out_dim: int) -> int:
        """Weights of the linear layers."""
        return self.width * out_dim + (self.mlp_depth - 1) * out_dim * out_dim

    def shrunk(self, size: Shrunk) -> Self:
        small = {"positions": 4, "width": 16} if size == "tiny" else {"positions": min(self.positions, 16), "width": 64}
        return self.but(**small, depth=min(self.depth, 2), trained=(SIDES[size], SIDES[size]))


def _params(in_dim: int, dim: int) -> int:
    """Parameters of one block."""
    squeezed = squeeze_dim(in_dim)
    shortcut = in_dim * dim + 2 * dim if in_dim != dim else 0
    return _per_cell(in_dim, dim) + 6 * dim + 2 * dim * squeezed + squeezed + dim + shortcut


def _per_cell(in_dim: int, dim: int) -> int:
    """Weights of the three convolutions on a block's main path."""
    return in_dim * dim + 9 * dim + dim * dim


def _flops(cells: int, in_dim: int, dim: int) -> int:
    shortcut = in_dim * dim if in_dim != dim else 0
    return 2 * cells * (_per_cell(in_dim, dim) + shortcut) + 4 * dim * squeeze_dim(in_dim)


def squeeze_dim(in_dim: int) -> int:
    """Channels of the squeeze-and-excitation of a block that reads `in_dim`."""
    return round(in_dim / SQUEEZE)
