"""Module of `connectors.query_transformer`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from omniform.batch import Features
from omniform.connectors.query_transformer import QueryTransformer


class QueryTransformerModule(nn.Module):
    """Features of any number of cells -> as many rows as there are queries."""

    def __init__(self, spec: QueryTransformer, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.into = nn.Linear(in_dim, spec.width)
        self.queries = nn.Parameter(torch.randn(1, spec.positions, spec.width))
        options: dict[str, Any] = {
            "d_model": spec.width,
            "nhead": spec.heads,
            "dim_feedforward": spec.mlp_dim,
            "dropout": 0.0,
        }
        layer = nn.TransformerEncoderLayer(**options, batch_first=True, norm_first=True)
        # PyTorch offers nested tensors to post-norm layers only, and warns about the others
        encoder = nn.TransformerEncoder(layer, spec.layers, nn.LayerNorm(spec.width), enable_nested_tensor=False)
        self.transformer = nn.Transformer(
            **options, num_decoder_layers=spec.layers, custom_encoder=encoder, batch_first=True, norm_first=True
        )
        self.out = nn.Linear(spec.width, out_dim)

    def forward(self, features: Features) -> Features:
        queries = self.queries.expand(len(features.values), -1, -1)
        rows = self.transformer(self.into(features.values), queries)
        return Features(self.out(rows), (queries.shape[1],))
