"""Module of `connectors.mof_mlp`."""

from __future__ import annotations

import torch
from torch import nn

from omniform.batch import Features
from omniform.connectors.mlp import Mlp
from omniform.connectors.mlp_module import MlpModule
from omniform.connectors.mof_mlp import MofMlp


class MofMlpModule(nn.Module):
    """Shapes: (views, cells, width of each encoder) -> (views, 2 * cells, out_dim)."""

    def __init__(self, spec: MofMlp, in_dim: int, out_dim: int, others: tuple[int, ...]) -> None:
        super().__init__()
        mlp = Mlp(depth=spec.depth)
        self.branches = nn.ModuleList(MlpModule(mlp, width, out_dim) for width in (in_dim, *others))
        self.spec = spec

    def forward(self, features: Features, *others: Features) -> Features:
        grid = self.spec.cells(features.grid, *(o.grid for o in others))
        rows = [branch(f).values for branch, f in zip(self.branches, (features, *others), strict=True)]
        return Features(torch.stack(rows, dim=2).flatten(1, 2), grid)
