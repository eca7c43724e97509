"""Module of `connectors.perceiver_resampler`; parameter names are those of the releases."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.connectors.perceiver_resampler import PerceiverResampler


class PerceiverResamplerModule(nn.Module):
    """Shapes: (views, cells, in_dim) -> (views, positions, out_dim)."""

    def __init__(self, spec: PerceiverResampler, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(spec.positions, in_dim))
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(spec, in_dim), _mlp(in_dim, spec.mlp_ratio)]) for _ in range(spec.layers)
        )
        self.norm = nn.LayerNorm(in_dim)
        self.proj = nn.Identity() if in_dim == out_dim else nn.Linear(in_dim, out_dim)
        self.spec = spec

    def forward(self, features: Features) -> Features:
        latents = self.latents.expand(len(features.values), -1, -1)
        layers: Any = self.layers
        for attention, mlp in layers:
            latents = latents + attention(latents, features.values)
            latents = latents + mlp(latents)
        return Features(self.proj(self.norm(latents)), self.spec.cells(features.grid))


class Attention(nn.Module):
    """Latents attend to the normed features and, after them, to the normed latents."""

    def __init__(self, spec: PerceiverResampler, dim: int) -> None:
        super().__init__()
        inner = spec.heads * spec.head_dim
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.heads = spec.heads

    def forward(
        self, latents: Float[Tensor, "views positions dim"], features: Float[Tensor, "views cells dim"]
    ) -> Float[Tensor, "views positions dim"]:
        latents = self.norm_latents(latents)
        seen = torch.cat([self.norm_media(features), latents], dim=1)
        projected = self.to_q(latents), *self.to_kv(seen).chunk(2, dim=-1)
        query, key, value = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in projected)
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def _mlp(dim: int, ratio: int) -> nn.Sequential:
    wide = ratio * dim
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, wide, bias=False), nn.GELU(), nn.Linear(wide, dim, bias=False)
    )
