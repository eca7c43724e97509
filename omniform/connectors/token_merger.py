"""What dropped cells hold moves into the kept ones (arXiv:2309.04669 section 3.1, the token merger)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from omniform.geometry import Grid, flat_rows
from omniform.parts import Connector, Shrunk


@dataclass(frozen=True, kw_only=True)
class TokenMerger(Connector):
    """Layers in which a cell attends to the kept cells up to itself, then to all dropped cells, then passes an MLP.

    jy0205/LaVIT@8cde9b4 LaVIT/models/modeling_visual_tokenzier.py:79-259: what is attended to in the second step are
    the normed features that entered, the stream itself begins with the features as they are; a dropped cell attends to
    itself as well; small numbers are added to the shares of attention, so that what is masked keeps a little. Where
    nothing says which cells are kept, all are.

    Attributes:
        layers, heads: of the transformer.
        mlp_ratio: inner width of its MLPs over the features' width, rounded down.
        project: "linear" is one linear layer to the output's width; "tanh" two, with a hyperbolic tangent between.
    """

    implementation = "omniform.connectors.token_merger_module:TokenMergerModule"

    layers: int = 12
    heads: int = 16
    mlp_ratio: float = 4.3637
    project: Literal["linear", "tanh"] = "linear"

    def mlp_dim(self, width: int) -> int:
        return int(width * self.mlp_ratio)

    def layer_params(self, width: int) -> int:
        d, m = width, self.mlp_dim(width)
        return 8 * d * (d + 1) + 3 * 2 * d + 2 * d * m + d + m

    def num_params(self, in_dim: int, out_dim: int) -> int:
        project = (in_dim + 1) * (out_dim + (in_dim if self.project == "tanh" else 0))
        return self.layers * self.layer_params(in_dim) + 4 * in_dim + project

    def flops(self, grid: Grid, in_dim: int, out_dim: int) -> int:
        cells = flat_rows(grid)
        return super().flops(grid, in_dim, out_dim) + self.layers * 8 * cells**2 * in_dim

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(layers=2, heads=2, mlp_ratio=2.0)
