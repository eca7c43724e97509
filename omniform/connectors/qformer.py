"""Q-Former: learned queries read the features through a BERT with cross-attention (BLIP-2, arXiv:2301.12597 3.1).

salesforce/LAVIS@506965b lavis/models/blip2_models/Qformer.py, lavis/models/blip2_models/blip2.py:44-60.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.geometry import Grid, SpecError, flat_rows
from omniform.parts import Connector, Shrunk

PROJECTIONS = ("query", "key")


@dataclass(frozen=True, kw_only=True)
class QFormer(Connector):
    """Features are normed; queries attend to each other in every layer, to the features in some; then one linear layer.

    Attributes:
        positions: queries, and so positions given.
        cross_every: the first of so many layers attends to the features.
        dropout: in training, as released.
        words: vocabulary of the text that it can read beside the queries; 0 for none. Queries and text attend to each
            other, but have MLPs of their own, and text does not see the features.
        longest: positions of text.
        normed: whether the features are normed first.
    """

    implementation = "omniform.connectors.qformer_module:QFormerModule"

    positions: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    cross_every: int = 2
    norm_eps: float = 1e-12
    dropout: float = 0.1
    words: int = 0
    longest: int = 512
    normed: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise SpecError(f"width {self.width} does not divide into {self.heads} heads")
        if min(self.positions, self.cross_every) < 1:
            raise SpecError(
                f"{self.positions} queries, cross-attention every {self.cross_every} layers: give at least 1"
            )

    @property
    def title(self) -> str:
        return "Q-Former"

    def cells(self, grid: Grid) -> Grid:
        return (self.positions,)

    def idle(self) -> tuple[tuple[str, int], ...]:
        """A single query has only itself to attend to, whatever its query and key projections say."""
        if self.positions > 1 or self.words:
            return ()
        projections = (f"bert.encoder.layer.{i}.attention.self.{n}." for i in range(self.layers) for n in PROJECTIONS)
        return tuple((name, (self.width + 1) * self.width) for name in projections)

    def crosses(self, layer: int) -> bool:
        """Whether a layer attends to the features."""
        return layer % self.cross_every == 0

    @property
    def num_crosses(self) -> int:
        return sum(self.crosses(layer) for layer in range(self.layers))

    def num_params(self, in_dim: int, out_dim: int) -> int:
        w, m = self.width, self.mlp_dim
        mlp = 2 * w * m + m + w + 2 * w
        attention = 4 * (w + 1) * w + 2 * w
        cross = 2 * (w + 1) * w + 2 * (in_dim + 1) * w + 2 * w
        text = (self.words + self.longest) * w + self.layers * mlp if self.words else 0
        former = self.layers * (attention + mlp) + self.num_crosses * cross + 2 * w
        return 2 * in_dim * self.normed + self.positions * w + former + text + (w + 1) * out_dim

    def flops(self, grid: Grid, in_dim: int, out_dim: int) -> int:
        w, queries, cells = self.width, self.positions, flat_rows(grid)
        layer = queries * (4 * w * w + 2 * w * self.mlp_dim) + 2 * queries * queries * w
        cross = 2 * queries * w * w + 2 * cells * in_dim * w + 2 * queries * cells * w
        return 2 * (self.layers * layer + self.num_crosses * cross + queries * w * out_dim)

    def shrunk(self, size: Shrunk) -> Self:
        tiny = {"positions": 4, "width": 16, "layers": 2, "heads": 2, "mlp_dim": 24}
        nano = {"positions": min(self.positions, 16), "width": 96, "layers": 4, "heads": 4, "mlp_dim": 192}
        return self.but(**(tiny if size == "tiny" else nano), dropout=0.0, words=min(self.words, 256), longest=32)
