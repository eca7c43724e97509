"""Module of `encoders.native_vit`, with the parameter names of the released checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.image_module import ImageEncoder
from omniform.encoders.layers_module import Mlp
from omniform.encoders.native_vit import NativeVit
from omniform.geometry import Hw


class NativeVitModule(ImageEncoder):
    """(frames of all sets, 3, height, width) -> features, (sets, cells, dim)."""

    def __init__(self, spec: NativeVit) -> None:
        super().__init__(spec)
        self.patch_embed = PatchEmbed(spec)
        self.blocks = nn.ModuleList(Layer(spec) for _ in range(spec.layers))
        self.spec = spec
        self.apply(_init)

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        """Features of the last layer.

        Raises:
            ValueError: the views do not make whole sets.
        """
        if len(pixels) % self.spec.together:
            raise ValueError(
                f"views: {len(pixels)}, but {self.spec.together} make one set of features; repeat the last"
            )
        rows, columns = self.spec.cells((pixels.shape[2], pixels.shape[3]))
        x = self.patch_embed(pixels)
        turns = rotation(self.spec, (rows, columns), x.device)
        for layer in self.blocks:
            x = layer(x, turns)
        return Features(x, (rows, columns))

    def layer_prefix(self) -> str:
        return "blocks."


class PatchEmbed(nn.Module):
    """A convolution over frames, rows and columns whose steps are as long as its kernel, computed as one product."""

    def __init__(self, spec: NativeVit) -> None:
        super().__init__()
        kernel = (spec.together, spec.patch, spec.patch)
        self.proj = nn.Conv3d(3, spec.width, kernel, stride=kernel, bias=False)

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Float[Tensor, "sets cells dim"]:
        weight = self.proj.weight
        depth, patch = weight.shape[2:4]
        x = pixels.unflatten(0, (-1, depth)).unflatten(4, (-1, patch)).unflatten(3, (-1, patch))
        # set, frame, colour, row, y, column, x -> set, row, column, colour, frame, y, x
        return F.linear(x.permute(0, 3, 5, 2, 1, 4, 6).flatten(3).flatten(1, 2), weight.flatten(1))


class Layer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, spec: NativeVit) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.attn = Attention(spec)
        self.mlp = Mlp(spec.width, spec.mlp_dim, spec.activation)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attn(self.norm1(x), turns)
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Multi-head self-attention among the cells of one set, queries and keys turned by their places."""

    def __init__(self, spec: NativeVit) -> None:
        super().__init__()
        self.qkv = nn.Linear(spec.width, 3 * spec.width)
        self.proj = nn.Linear(spec.width, spec.width)
        self.heads = spec.heads

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(_turned(query, turns), _turned(key, turns), value)
        return self.proj(y.transpose(1, 2).flatten(2))


def rotation(spec: NativeVit, grid: Hw, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (cells, head width) in float32: first half of a head's pairs by row, second by column."""
    half = spec.width // spec.heads // 2
    frequencies = spec.rope_theta ** -(torch.arange(0, half, 2, device=device, dtype=torch.float32) / half)
    rows, columns = (torch.outer(torch.arange(side, device=device).float(), frequencies) for side in grid)
    angles = torch.cat([rows[:, None].expand(*grid, -1), columns[None].expand(*grid, -1)], -1).flatten(0, 1)
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def _turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turns
    first, second = x.float().chunk(2, -1)
    return (x.float() * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv3d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
