"""Module of `connectors.normed_mlp`."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from omniform.batch import Features
from omniform.connectors.normed_mlp import NormedMlp


class NormedMlpModule(nn.Module):
    """Shapes: (views, cells, in_dim) -> (views, cells, out_dim)."""

    def __init__(self, spec: NormedMlp, in_dim: int, out_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in pairwise([in_dim, *[out_dim] * spec.depth]):
            layers += [nn.Linear(a, b), nn.LayerNorm(b), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Features) -> Features:
        return Features(self.layers(features.values), features.grid)
