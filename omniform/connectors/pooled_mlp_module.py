"""Module of `connectors.pooled_mlp`."""

from __future__ import annotations

import torch.nn.functional as F

from omniform.batch import Features
from omniform.connectors.mlp import Mlp
from omniform.connectors.mlp_module import MlpModule
from omniform.connectors.pooled_mlp import PooledMlp


class PooledMlpModule(MlpModule):
    """Shapes: (views, rows * columns, in_dim) -> (views, positions, out_dim)."""

    def __init__(self, spec: PooledMlp, in_dim: int, out_dim: int) -> None:
        super().__init__(Mlp(depth=spec.depth), in_dim, out_dim)
        self.spec = spec

    def forward(self, features: Features) -> Features:
        grid = self.spec.cells(features.grid)
        x = features.values.transpose(1, 2).unflatten(2, features.grid)
        x = F.adaptive_avg_pool2d(x, (grid[0], grid[1])).flatten(2).transpose(1, 2)
        return Features(self.layers(x), grid)
