"""Learned queries read a few features through a whole encoder-decoder transformer (GILL, arXiv:2305.17216 section 3.2).

The way from a language model's signal tokens to the condition of a frozen generator: kohjingyu/gill@4600b71
gill/layers.py, NExT-GPT/NExT-GPT@60d618b NExT-GPT-Lagacy/code/model/layers.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.geometry import Grid, SpecError, flat_rows
from omniform.parts import Connector, Shrunk


@dataclass(frozen=True, kw_only=True)
class QueryTransformer(Connector):
    """Linear, transformer (features in its encoder, queries in its decoder, nobody masked), linear.

    Pre-norm layers with ReLU, a final norm after both stacks, no positions besides what the queries learn.

    Attributes:
        positions: queries, and so positions given.
        layers: of the encoder, and of the decoder.
    """

    implementation = "omniform.connectors.query_transformer_module:QueryTransformerModule"

    positions: int = 77
    width: int = 512
    layers: int = 4
    heads: int = 4
    mlp_dim: int = 2048

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise SpecError(f"width {self.width} does not divide into {self.heads} heads")

    @property
    def title(self) -> str:
        return "Transformer with queries"

    def cells(self, grid: Grid) -> Grid:
        return (self.positions,)

    def num_params(self, in_dim: int, out_dim: int) -> int:
        w, m = self.width, self.mlp_dim
        attention, mlp, norm = 4 * (w * w + w), 2 * w * m + m + w, 2 * w
        encoder = self.layers * (attention + mlp + 2 * norm) + norm
        decoder = self.layers * (2 * attention + mlp + 3 * norm) + norm
        return (in_dim + 1) * w + encoder + decoder + self.positions * w + (w + 1) * out_dim

    def flops(self, grid: Grid, in_dim: int, out_dim: int) -> int:
        w, m, cells, queries = self.width, self.mlp_dim, flat_rows(grid), self.positions
        encoder = cells * (4 * w * w + 2 * w * m) + 2 * cells * cells * w
        own = queries * (4 * w * w + 2 * w * m) + 2 * queries * queries * w
        cross = 2 * (queries + cells) * w * w + 2 * queries * cells * w
        return 2 * (cells * in_dim * w + self.layers * (encoder + own + cross) + queries * w * out_dim)

    def shrunk(self, size: Shrunk) -> Self:
        tiny = {"positions": min(self.positions, 5), "width": 16, "layers": 1, "heads": 2, "mlp_dim": 24}
        nano = {"positions": self.positions, "width": 96, "layers": 2, "heads": 4, "mlp_dim": 192}
        return self.but(**(tiny if size == "tiny" else nano))
