"""Module of `connectors.linear`."""

from __future__ import annotations

from torch import nn

from omniform.batch import Features
from omniform.connectors.linear import Linear


class LinearModule(nn.Module):
    """Shapes: (views, cells, in_dim) -> (views, cells, out_dim)."""

    def __init__(self, spec: Linear, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_dim, out_dim)

    def forward(self, features: Features) -> Features:
        return Features(self.layer(features.values), features.grid)
