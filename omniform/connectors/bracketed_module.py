"""Module of `connectors.bracketed`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from omniform.batch import Features
from omniform.connectors.bracketed import Bracketed


class BracketedModule(nn.Module):
    """Shapes: (views, cells, in_dim) -> (views, inner cells + 2, out_dim)."""

    def __init__(self, spec: Bracketed, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.inner: Any = spec.inner.build(in_dim=in_dim, out_dim=out_dim)
        self.ends = nn.Embedding(2, out_dim)

    def forward(self, features: Features) -> Features:
        rows = self.inner(features).values
        first, last = self.ends.weight.to(rows.dtype).expand(len(rows), -1, -1).split(1, dim=1)
        return Features(torch.cat([first, rows, last], dim=1), (rows.shape[1] + 2,))
