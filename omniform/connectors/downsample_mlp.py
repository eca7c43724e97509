"""Space to depth, then norms and linear layers (VILA-1.5 and NVILA).

NVlabs/VILA@b760c34 llava/model/multimodal_projector/base_projector.py:43-250; VILA, arXiv:2312.07533; NVILA,
arXiv:2412.04468 section 2.1.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from omniform.geometry import Grid, SpecError
from omniform.parts import Connector


@dataclass(frozen=True, kw_only=True)
class DownsampleMlp(Connector):
    """`fold` x `fold` neighbouring cells become one of fold^2 times the width; then norm, linear, GELU ..., linear.

    A map whose sides do not divide is padded with zeros at the bottom and the right, before the first norm.

    Attributes:
        hidden: widths between the fold and the backbone, in units of the input width, each with a norm before the
            linear layer that follows: () for the 2x2 forms, (3,) for 3x3_fix, (3, 1, 1 / 3) for 3x3_s2.
        by_column: whether the cells come out column after column, as in VILA-1.5
            (NVlabs/VILA@1c88211 llava/model/multimodal_projector/base_projector.py, `flat_square`).
    """

    implementation = "omniform.connectors.downsample_mlp_module:DownsampleMlpModule"

    fold: int = 2
    hidden: tuple[float, ...] = ()
    by_column: bool = False

    def __post_init__(self) -> None:
        if self.fold < 2:
            raise SpecError(f"fold {self.fold}: give at least 2, or use Mlp")

    @property
    def title(self) -> str:
        return "MLP"

    def cells(self, grid: Grid) -> Grid:
        if len(grid) != 2:
            raise SpecError(
                f"DownsampleMlp folds a map of rows and columns, but the encoder gives {grid} cells; "
                "use an encoder that keeps its map (drop_first=False)"
            )
        rows, columns = -(-grid[0] // self.fold), -(-grid[1] // self.fold)
        return (columns, rows) if self.by_column else (rows, columns)

    def widths(self, in_dim: int, out_dim: int) -> tuple[int, ...]:
        """Widths from the folded cells to the backbone, the last linear layer (of equal widths) not counted."""
        between = (int(in_dim * h + 1e-6) for h in self.hidden)
        return in_dim * self.fold**2, *between, out_dim

    def num_params(self, in_dim: int, out_dim: int) -> int:
        layers = pairwise(self.widths(in_dim, out_dim))
        return sum(2 * a + (a + 1) * b for a, b in layers) + (out_dim + 1) * out_dim
