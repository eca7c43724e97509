"""Module of `connectors.downsample_mlp`."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import nn

from omniform.batch import Features
from omniform.connectors.downsample_mlp import DownsampleMlp


class DownsampleMlpModule(nn.Module):
    """Shapes: (views, rows * columns, in_dim) -> (views, cells, out_dim)."""

    def __init__(self, spec: DownsampleMlp, in_dim: int, out_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Identity()]  # releases number the fold as layer 0
        for a, b in pairwise(spec.widths(in_dim, out_dim)):
            layers += [nn.LayerNorm(a), nn.Linear(a, b), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(out_dim, out_dim))
        self.spec = spec

    def forward(self, features: Features) -> Features:
        fold = self.spec.fold
        rows, columns = (-(-side // fold) for side in features.grid)
        x = features.values.unflatten(1, features.grid)
        x = F.pad(x, (0, 0, 0, columns * fold - features.grid[1], 0, rows * fold - features.grid[0]))
        x = x.unflatten(2, (columns, fold)).unflatten(1, (rows, fold)).transpose(2, 3).flatten(3)
        folded = x.transpose(1, 2) if self.spec.by_column else x
        return Features(self.layers(folded.flatten(1, 2)), self.spec.cells(features.grid))
