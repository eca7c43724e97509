"""Module of `codecs.query_detokenizer`; most parameter names are those of the released checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omniform.codecs.painter_module import Condition
from omniform.codecs.query_detokenizer import QueryDetokenizer

STD = 0.02


class QueryDetokenizerModule(nn.Module):
    """(media, codes, in_dim) entries -> features of `codes` cells, and a condition of as many rows."""

    def __init__(self, spec: QueryDetokenizer, codes: int, in_dim: int) -> None:
        super().__init__()
        d = spec.width
        self.in_proj = nn.Linear(in_dim, d)
        self.pos_embed, self.query_embed = (nn.Parameter(torch.randn(1, codes, d) * STD) for _ in range(2))
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(d)
        self.decode_task_layer = nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, d))
        self.conditions = nn.ModuleList(nn.Linear(d, width) for width in spec.conditions)
        self.pool = Pool(codes, d, spec.heads, spec.pooled) if spec.pooled else None

    def features(
        self, entries: Float[Tensor, "media codes in_dim"], held: Bool[Tensor, "media codes"]
    ) -> Float[Tensor, "media cells width"]:
        """Features of all cells, from the codes that are held."""
        codes = self.in_proj(entries) + self.pos_embed[:, : entries.shape[1]]
        x = self.query_embed.expand(len(codes), -1, -1)
        for block in self.blocks:
            x = block(x, codes, held)
        return self.decode_task_layer(self.norm(x))

    def forward(self, entries: Float[Tensor, "media codes in_dim"], held: Bool[Tensor, "media codes"]) -> Condition:
        x = self.features(entries, held)
        rows = torch.cat([project(x) for project in self.conditions], dim=-1)
        return Condition(rows, None if self.pool is None else self.pool(x))


class Block(nn.Module):
    """Attention among queries, to the codes, and an MLP; each behind a norm and beside an identity."""

    def __init__(self, spec: QueryDetokenizer) -> None:
        super().__init__()
        d = spec.width
        self.norm0, self.norm1, self.norm2 = (nn.LayerNorm(d) for _ in range(3))
        self.self_attn, self.cross_attn = SelfAttention(d, spec.heads), CrossAttention(d, spec.heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(d, spec.mlp_dim), "fc2": nn.Linear(spec.mlp_dim, d)})

    def forward(self, x: Tensor, codes: Tensor, held: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm0(x))
        x = x + self.cross_attn(self.norm1(x), codes, held)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=2)
        return self.proj(attend(query, key, value, self.heads))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x: Tensor, codes: Tensor, held: Tensor) -> Tensor:
        return self.proj(attend(self.query(x), self.key(codes), self.value(codes), self.heads, held[:, None, None]))


class Pool(nn.Module):
    """Attention from the mean of all rows to it and the rows, each at a learned position."""

    def __init__(self, rows: int, width: int, heads: int, out: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(rows + 1, width) * width**-0.5)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, out)
        self.heads = heads

    def forward(self, x: Float[Tensor, "media rows width"]) -> Float[Tensor, "media out"]:
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.positional_embedding
        return self.c_proj(attend(self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x), self.heads))[:, 0]


def attend(
    query: Float[Tensor, "media queries width"],
    key: Float[Tensor, "media keys width"],
    value: Float[Tensor, "media keys width"],
    heads: int,
    seen: Bool[Tensor, "media 1 1 keys"] | None = None,
) -> Float[Tensor, "media queries width"]:
    q, k, v = (y.unflatten(2, (heads, -1)).transpose(1, 2) for y in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2).flatten(2)
