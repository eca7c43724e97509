"""Module of `connectors.fused_mlp`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from omniform.batch import Features
from omniform.connectors.fused_mlp import FusedMlp


class FusedMlpModule(nn.Module):
    """Shapes: (views, cells, width of each encoder) -> (views, cells, out_dim)."""

    def __init__(self, spec: FusedMlp, in_dim: int, out_dim: int, others: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in pairwise(spec.widths(in_dim, out_dim, others)):
            layers += [nn.Linear(a, b), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.spec = spec

    def forward(self, features: Features, *others: Features) -> Features:
        grid = self.spec.cells(features.grid, *(o.grid for o in others))
        return Features(self.layers(torch.cat([f.values for f in (features, *others)], dim=-1)), grid)
