"""Module of `connectors.glu`, with the names of the release."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from omniform.batch import Features
from omniform.connectors.glu import Glu


class GluModule(nn.Module):
    """Shapes: (views, cells, in_dim) -> (views, cells, out_dim)."""

    def __init__(self, spec: Glu, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear_proj = nn.Linear(in_dim, out_dim, bias=False)
        self.norm1 = nn.LayerNorm(out_dim)
        self.gate_proj = nn.Linear(out_dim, spec.mlp_dim, bias=False)
        self.dense_h_to_4h = nn.Linear(out_dim, spec.mlp_dim, bias=False)
        self.dense_4h_to_h = nn.Linear(spec.mlp_dim, out_dim, bias=False)

    def forward(self, features: Features) -> Features:
        x = F.gelu(self.norm1(self.linear_proj(features.values)))
        return Features(self.dense_4h_to_h(F.silu(self.gate_proj(x)) * self.dense_h_to_4h(x)), features.grid)
