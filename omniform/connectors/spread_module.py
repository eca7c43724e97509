"""Module of `connectors.spread`."""

from __future__ import annotations

from torch import nn

from omniform.batch import Features
from omniform.connectors.spread import Spread


class SpreadModule(nn.Module):
    """Shapes: (views, cells, in_dim) -> (views, positions, out_dim)."""

    def __init__(self, spec: Spread, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.positions = spec.positions
        self.layer = nn.Linear(in_dim, spec.positions * out_dim)

    def forward(self, features: Features) -> Features:
        rows = self.layer(features.values.mean(1)).unflatten(1, (self.positions, -1))
        return Features(rows, (self.positions,))
