"""Module of `connectors.ldp_v2`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from omniform.batch import Features
from omniform.connectors.ldp_v2 import LdpV2


class LdpV2Module(nn.Module):
    """Shapes: (views, rows * columns, width of each encoder) -> (views, side * side, out_dim)."""

    def __init__(self, spec: LdpV2, in_dim: int, out_dim: int, others: tuple[int, ...] = ()) -> None:
        super().__init__()
        first, hidden, last = spec.widths(in_dim, out_dim, others)
        self.layers = nn.Sequential(nn.Linear(first, hidden), nn.GELU(), nn.Linear(hidden, last))
        self.peg = nn.Conv2d(last, last, 3, padding=1, groups=last)
        self.spec = spec

    def forward(self, features: Features, *others: Features) -> Features:
        rows, columns = self.spec.cells(features.grid, *(o.grid for o in others))
        x = self.layers(torch.cat([f.values for f in (features, *others)], dim=-1))
        x = x.transpose(1, 2).unflatten(2, features.grid)
        x = F.adaptive_avg_pool2d(x, (rows, columns))
        x = x + self.peg(x)
        return Features(x.flatten(2).transpose(1, 2), (rows, columns))
