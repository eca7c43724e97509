"""Module of `connectors.patch_merger`, with the parameter names of the released checkpoints."""

from __future__ import annotations

from torch import nn

from omniform.batch import Features
from omniform.connectors.patch_merger import PatchMerger


class PatchMergerModule(nn.Module):
    """Shapes: (sets, rows * columns, in_dim) -> (sets, rows * columns / fold^2, out_dim)."""

    def __init__(self, spec: PatchMerger, in_dim: int, out_dim: int) -> None:
        super().__init__()
        wide = in_dim * spec.fold**2
        self.ln_q = nn.LayerNorm(in_dim, eps=spec.norm_eps)
        self.mlp = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, out_dim))
        self.spec = spec

    def forward(self, features: Features) -> Features:
        rows, columns = self.spec.cells(features.grid)
        x = self.ln_q(features.values).unflatten(1, features.grid)
        x = x.unflatten(2, (columns, -1)).unflatten(1, (rows, -1)).transpose(2, 3)
        return Features(self.mlp(x.flatten(3).flatten(1, 2)), (rows, columns))
