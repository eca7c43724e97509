"""Module of `connectors.stacked_mlp`; parameter names are those of the public checkpoints."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from omniform.batch import Features
from omniform.connectors.stacked_mlp import StackedMlp


class StackedMlpModule(nn.Module):
    """Shapes: (views, cells, in_dim) -> (views, cells // fold, out_dim)."""

    def __init__(self, spec: StackedMlp, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.linear1 = nn.Linear(spec.fold * in_dim, spec.hidden)
        self.linear2 = nn.Linear(spec.hidden, out_dim)

    def forward(self, features: Features) -> Features:
        cells = self.spec.cells(features.grid)
        whole = features.values[:, : cells[0] * self.spec.fold]
        stacked = whole.unflatten(1, (cells[0], self.spec.fold)).flatten(2)
        return Features(self.linear2(F.relu(self.linear1(stacked))), cells)
