"""What modules of ImageBind's towers share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.encoders.imagebind import ImageBindTower
from omniform.encoders.layers_module import Mlp

STD = 0.02


class Block(nn.Module):
    """Pre-norm layer; `bias_rows` adds one learned key and value that every token sees."""

    def __init__(self, width: int, heads: int, mlp_dim: int, norm_eps: float, bias_rows: bool = False) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = nn.MultiheadAttention(width, heads, add_bias_kv=bias_rows, batch_first=True)
        self.norm_2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, mlp_dim, "gelu")

    def forward(self, x: Float[Tensor, "rows tokens width"]) -> Float[Tensor, "rows tokens width"]:
        y = self.norm_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm_2(x))


class TowerModule(nn.Module):
    """Class token, positions, layers and head; what makes patches, and forward, are each tower's own."""

    def _make(self, spec: ImageBindTower) -> None:
        """The modules of every tower; called by constructors after their base's."""
        width, eps = spec.width, spec.norm_eps
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=STD))
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, spec.held + 1, width), std=STD))
        layers = (Block(width, spec.heads, spec.mlp_dim, eps, spec.bias_rows) for _ in range(spec.layers))
        self.blocks = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.head = nn.Linear(width, spec.out_dim, bias=False)
        self.unit = spec.unit

    def with_class(self, patches: Float[Tensor, "rows patches width"]) -> Float[Tensor, "rows tokens width"]:
        """The class token before each row's patches."""
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)

    def through(self, x: Float[Tensor, "rows tokens width"]) -> Float[Tensor, "rows tokens width"]:
        """All layers."""
        for block in self.blocks:
            x = block(x)
        return x

    def embedding(self, tokens: Float[Tensor, "rows tokens width"]) -> Float[Tensor, "rows 1 out"]:
        """The class token, normed and projected."""
        found = self.head(self.norm(tokens[:, :1]))
        return F.normalize(found, dim=-1) if self.unit else found

    def layer_prefix(self) -> str:
        """Prefix before a layer's number in parameter names, for stages that train only later layers."""
        return "blocks."
