"""Module of `encoders.dinov2`, with the parameter names of the released checkpoints."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.dinov2 import DinoV2
from omniform.encoders.image_module import ImageEncoder, square_positions
from omniform.encoders.layers_module import Mlp


class DinoV2Module(ImageEncoder):
    """(views, 3, image, image) -> features of one hidden layer, without class token and final norm."""

    def __init__(self, spec: DinoV2) -> None:
        super().__init__(spec)
        self.embeddings = Embeddings(spec)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(spec) for _ in range(spec.layers))})
        if spec.post_norm:
            self.layernorm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.spec = spec
        self.apply(_init)

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        x, layers = self.embeddings(pixels), cast(nn.ModuleList, self.encoder["layer"])
        for layer in layers[: self.spec.run_layers]:
            x = layer(x)
        skipped = 1 + self.spec.registers + int(self.spec.drop_first)
        return Features(x[:, skipped:], self.spec.cells((pixels.shape[2], pixels.shape[3])))

    def idle(self) -> tuple[str, ...]:
        unrun = range(self.spec.run_layers, self.spec.layers)
        return ("embeddings.mask_token", "layernorm.", *(f"encoder.layer.{i}." for i in unrun))

    def layer_prefix(self) -> str:
        return "encoder.layer."


class Embeddings(nn.Module):
    """Patches and class token with their positions, registers without; the mask token is held but not used."""

    def __init__(self, spec: DinoV2) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, spec.width) * 0.02)
        self.mask_token = nn.Parameter(torch.zeros(1, spec.width))
        if spec.registers:
            self.register_tokens = nn.Parameter(torch.randn(1, spec.registers, spec.width) * 0.02)
        self.position_embeddings = nn.Parameter(torch.randn(1, spec.held_patches + 1, spec.width) * 0.02)
        projection = nn.Conv2d(3, spec.width, spec.patch, stride=spec.patch)
        self.patch_embeddings = nn.ModuleDict({"projection": projection})
        self.spec = spec

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embeddings["projection"](pixels)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        grid = (patches.shape[2], patches.shape[3])
        x = x + square_positions(self.position_embeddings, grid, self.spec.antialias)
        if not self.spec.registers:
            return x
        return torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)


class Layer(nn.Module):
    """Pre-norm transformer layer; each branch is scaled before it is added."""

    def __init__(self, spec: DinoV2) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.attention = Attention(spec)
        self.layer_scale1 = Scale(spec.width)
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.mlp: nn.Module = GatedMlp(spec) if spec.gated else Mlp(spec.width, spec.mlp_dim, spec.activation)
        self.layer_scale2 = Scale(spec.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Multi-head self-attention among all tokens."""

    def __init__(self, spec: DinoV2) -> None:
        super().__init__()
        width = spec.width
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})
        self.heads = spec.heads

    def forward(self, x: Tensor) -> Tensor:
        projected = (self.attention[name](x) for name in ("query", "key", "value"))
        query, key, value = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in projected)
        y = F.scaled_dot_product_attention(query, key, value)
        return self.output["dense"](y.transpose(1, 2).flatten(2))


class GatedMlp(nn.Module):
    """SwiGLU: the first half of the first layer gates the second."""

    def __init__(self, spec: DinoV2) -> None:
        super().__init__()
        self.weights_in = nn.Linear(spec.width, 2 * spec.mlp_dim)
        self.weights_out = nn.Linear(spec.mlp_dim, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.weights_in(x).chunk(2, dim=-1)
        return self.weights_out(F.silu(gate) * value)


class Scale(nn.Module):
    """One learned factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.lambda1


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
