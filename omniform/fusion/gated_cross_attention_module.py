"""Module of `fusion.gated_cross_attention`; parameter names within a block are those of the releases."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Placed
from omniform.fusion.attached_module import Attached
from omniform.fusion.gated_cross_attention import GatedCrossAttention
from omniform.fusion.seen_module import Seen


class GatedCrossAttentionModule(Attached):
    """A block before some of the backbone's layers; its key in `blocks` is the layer's number."""

    def __init__(self, spec: GatedCrossAttention, backbone: Any, width: int) -> None:
        super().__init__()
        dim, numbers = backbone.spec.dim, spec.gated(backbone.spec)
        self.blocks = nn.ModuleDict({str(number): Block(spec, dim, width) for number in numbers})
        self.spec = spec
        self.before_layers(backbone)

    def forward(self, embeds: Float[Tensor, "n dim"], media: Placed) -> tuple[Float[Tensor, "n dim"], Seen]:
        return embeds, Seen.of(media)

    def before(self, number: int, hidden: Tensor, state: Any) -> Tensor:
        return self.blocks[str(number)](hidden, state) if str(number) in self.blocks else hidden


class Block(nn.Module):
    """Attention to the medium that a position sees, and an MLP; each added through a gate."""

    def __init__(self, spec: GatedCrossAttention, dim: int, width: int) -> None:
        super().__init__()
        self.attn = Attention(spec, dim, width)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        wide = spec.mlp_ratio * dim
        self.ff = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, wide, bias=False), nn.GELU(), nn.Linear(wide, dim, bias=False)
        )
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "rows positions dim"], seen: Seen) -> Float[Tensor, "rows positions dim"]:
        x = x + self.attn(x, seen) * self.attn_gate.tanh()
        return x + self.ff(x) * self.ff_gate.tanh()


class Attention(nn.Module):
    """Each position attends to the rows of one medium; where it sees none, the result is zero."""

    def __init__(self, spec: GatedCrossAttention, dim: int, width: int) -> None:
        super().__init__()
        inner = spec.heads * spec.head_dim
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.heads = spec.heads

    def forward(self, x: Float[Tensor, "rows positions dim"], seen: Seen) -> Float[Tensor, "rows positions dim"]:
        query = self.to_q(self.norm(x))
        return self.to_out(seen.gather(query, self.to_kv(seen.rows), self.heads))
