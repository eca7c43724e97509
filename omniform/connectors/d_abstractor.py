"""D-Abstractor: learned queries look at a few points of the map each (arXiv:2312.06742 section 3.2.2).

khanrc/honeybee@68a8d84 honeybee/projectors/dabs.py:15-369, on the decoder layers of Deformable DETR (arXiv:2010.04159).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.connectors.abstractor import SIDES, Abstractor
from omniform.geometry import Grid, SpecError, flat_rows
from omniform.parts import Shrunk


@dataclass(frozen=True, kw_only=True)
class DAbstractor(Abstractor):
    """Deformable attention from a square of queries; the pooled map is the queries' position embedding.

    Reference points are parameters of their own, in [0, 1] coordinates, shared by all layers.

    Attributes:
        width: width of the layers.
        points: points that each head of each query samples.
        dropout: of each branch in training, as released.
    """

    implementation = "omniform.connectors.d_abstractor_module:DAbstractorModule"

    width: int = 1024
    layers: int = 6
    heads: int = 8
    points: int = 4
    mlp_dim: int = 1024
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise SpecError(f"width {self.width} does not divide into {self.heads} heads")

    @property
    def title(self) -> str:
        return "D-Abstractor"

    def num_params(self, in_dim: int, out_dim: int) -> int:
        w = self.width
        sampled = 3 * self.heads * self.points  # two coordinates and a weight for each point
        layer = 6 * (w + 1) * w + (w + 1) * sampled + 2 * w * self.mlp_dim + self.mlp_dim + w + 6 * w
        ends = ((in_dim + 1) * w if in_dim != w else 0) + ((w + 1) * out_dim if out_dim != w else 0)
        return self.position_params(w) + self.positions * (w + 2) + self.layers * layer + ends

    def flops(self, grid: Grid, in_dim: int, out_dim: int) -> int:
        w, queries, cells = self.width, self.positions, flat_rows(grid)
        each = 5 * w * w + 3 * w * self.heads * self.points + 2 * w * self.mlp_dim
        layer = 2 * (queries * each + cells * w * w) + 4 * queries * queries * w + 2 * queries * self.points * w
        ends = (cells * in_dim * w if in_dim != w else 0) + (queries * w * out_dim if out_dim != w else 0)
        return self.layers * layer + 2 * ends

    def shrunk(self, size: Shrunk) -> Self:
        tiny = {"positions": 4, "width": 16, "layers": 2, "heads": 2, "mlp_dim": 24}
        nano = {"positions": min(self.positions, 16), "width": 64, "layers": 2, "heads": 4, "mlp_dim": 128}
        side = SIDES[size]
        return self.but(**(tiny if size == "tiny" else nano), dropout=0.0, trained=(side, side))
