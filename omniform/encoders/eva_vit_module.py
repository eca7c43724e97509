"""Module of `encoders.eva_vit`, with the parameter names of the released checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.eva_vit import EvaVit
from omniform.encoders.image_module import ImageEncoder, square_positions
from omniform.encoders.layers_module import Mlp

STD = 0.02


class EvaVitModule(ImageEncoder):
    """(views, 3, image, image) -> features of one hidden layer, class token first where it is kept."""

    def __init__(self, spec: EvaVit) -> None:
        super().__init__(spec)
        width = spec.width
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=STD))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, spec.held_patches + 1, width), std=STD))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, spec.patch, stride=spec.patch)})
        self.blocks = nn.ModuleList(Block(spec, number) for number in range(1, spec.layers + 1))
        if spec.head:
            self.norm, self.head = nn.LayerNorm(width, eps=spec.norm_eps), nn.Linear(width, spec.head)
        self.spec = spec

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        patches = self.patch_embed["proj"](pixels)
        tokens = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        x = x + square_positions(self.pos_embed, (patches.shape[2], patches.shape[3]))
        for block in self.blocks[: self.spec.run_layers]:
            x = block(x)
        kept = x if self.spec.keep_class else x[:, 1:]
        return Features(kept, self.spec.cells((pixels.shape[2], pixels.shape[3])))

    def idle(self) -> tuple[str, ...]:
        behind = ("norm.", "head.") if self.spec.head else ()
        return (*(f"blocks.{i}." for i in range(self.spec.run_layers, self.spec.layers)), *behind)

    def layer_prefix(self) -> str:
        return "blocks."


class Block(nn.Module):
    """Pre-norm transformer layer; later ones add less at the start (lavis/models/eva_vit.py:318-325)."""

    def __init__(self, spec: EvaVit, number: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.attn = Attention(spec)
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.mlp = Mlp(spec.width, spec.mlp_dim, spec.activation)
        self.apply(_init)
        with torch.no_grad():
            for layer in (self.attn.proj, self.mlp.fc2):
                layer.weight /= (2.0 * number) ** 0.5

    def forward(self, x: Float[Tensor, "views tokens width"]) -> Float[Tensor, "views tokens width"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Multi-head attention of one fused projection; queries and values have a bias, keys none of effect."""

    def __init__(self, spec: EvaVit) -> None:
        super().__init__()
        self.qkv = nn.Linear(spec.width, 3 * spec.width, bias=spec.key_bias)
        if not spec.key_bias:
            self.q_bias = nn.Parameter(torch.zeros(spec.width))
            self.v_bias = nn.Parameter(torch.zeros(spec.width))
        self.proj = nn.Linear(spec.width, spec.width)
        self.heads = spec.heads

    def forward(self, x: Tensor) -> Tensor:
        bias = self.qkv.bias
        if bias is None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        projected = F.linear(x, self.qkv.weight, bias).chunk(3, dim=2)
        query, key, value = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in projected)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
