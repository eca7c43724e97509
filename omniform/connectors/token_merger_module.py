"""Module of `connectors.token_merger`; names of the merger are those of the released checkpoint."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.connectors.token_merger import TokenMerger

EPS = 1e-6
"""Added to what attention's shares are made of."""
STD = 0.02


class TokenMergerModule(nn.Module):
    """(views, cells, in_dim) -> (views, cells, out_dim); the rows of dropped cells are there too, but hold nothing."""

    def __init__(self, spec: TokenMerger, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.merger = Merger(spec, in_dim)
        last = nn.Linear(in_dim, out_dim)
        self.project = nn.Sequential(nn.Linear(in_dim, in_dim), nn.Tanh(), last) if spec.project == "tanh" else last

    def forward(self, features: Features) -> Features:
        x = features.values
        kept = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if features.kept is None else features.kept
        return Features(self.project(self.merger(x, kept)), features.grid, features.kept)


class Merger(nn.Module):
    """Layers between the norm of what dropped cells say and the norm of the result."""

    def __init__(self, spec: TokenMerger, width: int) -> None:
        super().__init__()
        self.ln_vision, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(spec, width) for _ in range(spec.layers))
        self.apply(_init)

    def forward(
        self, x: Float[Tensor, "views cells width"], kept: Bool[Tensor, "views cells"]
    ) -> Float[Tensor, "views cells width"]:
        said = self.ln_vision(x)
        itself = torch.eye(kept.shape[1], dtype=torch.bool, device=kept.device)
        before = (kept[:, None] | itself).tril()[:, None]
        dropped = ~kept[:, None, None]
        for block in self.blocks:
            x = block(x, said, before, dropped)
        return self.norm(x)


class Block(nn.Module):
    """Attention among kept cells, attention to dropped cells, MLP; each behind a norm and beside an identity."""

    def __init__(self, spec: TokenMerger, width: int) -> None:
        super().__init__()
        self.norm0, self.norm1, self.norm2 = (nn.LayerNorm(width) for _ in range(3))
        self.token_causal_attn = SelfAttention(width, spec.heads)
        self.token_cross_attn = CrossAttention(width, spec.heads)
        inner = spec.mlp_dim(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "act": nn.GELU(), "fc2": nn.Linear(inner, width)})

    def forward(self, x: Tensor, said: Tensor, before: Tensor, dropped: Tensor) -> Tensor:
        x = x + self.token_causal_attn(self.norm0(x), before)
        x = x + self.token_cross_attn(self.norm1(x), said, dropped)
        return x + self.mlp["fc2"](self.mlp["act"](self.mlp["fc1"](self.norm2(x))))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=2)
        return self.proj(attend(query, key, value, seen, self.heads))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x: Tensor, said: Tensor, seen: Tensor) -> Tensor:
        return self.proj(attend(self.query(x), self.key(said), self.value(said), seen, self.heads))


def attend(
    query: Float[Tensor, "views cells width"],
    key: Float[Tensor, "views cells width"],
    value: Float[Tensor, "views cells width"],
    seen: Bool[Tensor, "views 1 _queries cells"],
    heads: int,
) -> Float[Tensor, "views cells width"]:
    """Attention whose shares are smoothed: a cell that sees nothing takes the mean of all."""
    q, k, v = (y.unflatten(2, (heads, -1)).transpose(1, 2) for y in (query, key, value))
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    shares = (scores - scores.amax(-1, keepdim=True)).float().exp() * seen
    shares = (shares + EPS / shares.shape[3]) / (shares.sum(-1, keepdim=True) + EPS)
    return (shares.to(v.dtype) @ v).transpose(1, 2).flatten(2)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=STD)
        nn.init.zeros_(module.bias)
