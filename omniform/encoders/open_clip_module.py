"""Module of `encoders.open_clip`, with the parameter names of OpenCLIP's checkpoints."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from omniform.batch import Features
from omniform.encoders.image_module import ImageEncoder
from omniform.encoders.open_clip import OpenClipVit


class OpenClipVitModule(ImageEncoder):
    """(views, 3, image, image) -> features of one hidden layer, without class token and final norm."""

    def __init__(self, spec: OpenClipVit) -> None:
        super().__init__(spec)
        self.visual = Tower(spec)
        self.spec = spec

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        x = self.visual(pixels, self.spec.run_layers)
        skipped = 1 + int(self.spec.drop_first)
        return Features(x[:, skipped:], self.spec.cells((pixels.shape[2], pixels.shape[3])))

    def idle(self) -> tuple[str, ...]:
        unrun = range(self.spec.run_layers, self.spec.layers)
        return ("visual.ln_post.", "visual.proj", *(f"{self.layer_prefix()}{i}." for i in unrun))

    def layer_prefix(self) -> str:
        return "visual.transformer.resblocks."


class Tower(nn.Module):
    """Class token and patches through the first layers."""

    def __init__(self, spec: OpenClipVit) -> None:
        super().__init__()
        width, scale = spec.width, spec.width**-0.5
        self.conv1 = nn.Conv2d(3, width, spec.patch, stride=spec.patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(spec.patches + 1, width))
        self.ln_pre = nn.LayerNorm(width, eps=spec.norm_eps)
        self.transformer: Any = nn.ModuleDict({"resblocks": nn.ModuleList(Block(spec) for _ in range(spec.layers))})
        self.ln_post = nn.LayerNorm(width, eps=spec.norm_eps) if spec.post_norm else nn.Identity()
        self.proj = nn.Parameter(scale * torch.randn(width, spec.shared_dim))

    def forward(self, pixels: Tensor, layers: int) -> Float[Tensor, "views tokens width"]:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        x = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        for block in self.transformer["resblocks"][:layers]:
            x = block(x)
        return x


class Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, spec: OpenClipVit) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.attn = Attention(spec)
        self.ln_2 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(spec.width, spec.mlp_dim), "c_proj": nn.Linear(spec.mlp_dim, spec.width)}
        )
        self.activation = ACT2FN[spec.activation]

    def forward(self, x: Float[Tensor, "views tokens width"]) -> Float[Tensor, "views tokens width"]:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](self.activation(self.mlp["c_fc"](self.ln_2(x))))


class Attention(nn.Module):
    """Multi-head attention of one fused projection."""

    def __init__(self, spec: OpenClipVit) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * spec.width, spec.width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * spec.width))
        self.out_proj = nn.Linear(spec.width, spec.width)
        self.heads = spec.heads

    def forward(self, x: Tensor) -> Tensor:
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=2)
        query, key, value = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in projected)
        return self.out_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
