"""Module of `encoders.eva2_clip`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.eva2_clip import Eva2Clip
from omniform.encoders.image_module import ImageEncoder
from omniform.encoders.layers_module import Mlp

STD = 0.02


class Eva2ClipModule(ImageEncoder):
    """(views, 3, image, image) -> patches of one hidden layer; names as in the release."""

    def __init__(self, spec: Eva2Clip) -> None:
        super().__init__(spec)
        self.patch_embedding = Embedding(spec)
        self.transformer = nn.ModuleDict({"layers": nn.ModuleList(Block(spec) for _ in range(spec.layers))})
        self.spec = spec

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        x = self.patch_embedding(pixels)
        layers: nn.ModuleList = self.transformer["layers"]  # type: ignore[assignment]
        for layer in layers[: self.spec.run_layers]:
            x = layer(x)
        return Features(x[:, 1:], self.spec.cells((pixels.shape[2], pixels.shape[3])))

    def idle(self) -> tuple[str, ...]:
        return tuple(f"transformer.layers.{i}." for i in range(self.spec.run_layers, self.spec.layers))

    def layer_prefix(self) -> str:
        return "transformer.layers."


class Embedding(nn.Module):
    """Class token, patches, positions."""

    def __init__(self, spec: Eva2Clip) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, spec.width, spec.patch, stride=spec.patch)
        self.cls_embedding = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, spec.width), std=STD))
        self.position_embedding = nn.Embedding(spec.patches + 1, spec.width)
        nn.init.trunc_normal_(self.position_embedding.weight, std=STD)

    def forward(self, pixels: Tensor) -> Float[Tensor, "views tokens width"]:
        patches = self.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_embedding.expand(len(patches), 1, -1), patches], dim=1)
        return x + self.position_embedding.weight


class Block(nn.Module):
    """Attention, then MLP, each normalised where it is added."""

    def __init__(self, spec: Eva2Clip) -> None:
        super().__init__()
        self.attention = Attention(spec)
        self.input_layernorm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.mlp = Mlp(spec.width, spec.mlp_dim, spec.activation)
        self.post_attention_layernorm = nn.LayerNorm(spec.width, eps=spec.norm_eps)

    def forward(self, x: Float[Tensor, "views tokens width"]) -> Float[Tensor, "views tokens width"]:
        x = x + self.input_layernorm(self.attention(x))
        return x + self.post_attention_layernorm(self.mlp(x))


class Attention(nn.Module):
    """Multi-head attention of one fused projection."""

    def __init__(self, spec: Eva2Clip) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(spec.width, 3 * spec.width)
        self.dense = nn.Linear(spec.width, spec.width)
        self.heads = spec.heads

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in self.query_key_value(x).chunk(3, dim=2)
        )
        return self.dense(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
