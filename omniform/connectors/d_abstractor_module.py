"""Module of `connectors.d_abstractor`, in plain PyTorch; parameter names are those of the releases."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.connectors.d_abstractor import DAbstractor
from omniform.connectors.map_positions_module import positions_for
from omniform.geometry import Hw

STD = 0.02


class DAbstractorModule(nn.Module):
    """Shapes: (views, rows * columns, in_dim) -> (views, positions, out_dim)."""

    def __init__(self, spec: DAbstractor, in_dim: int, out_dim: int) -> None:
        super().__init__()
        width = spec.width
        self.input_proj = nn.ModuleList([_linear_where_needed(in_dim, width)])
        self.v_pos_emb = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, prod(spec.trained), width), std=STD))
        self.query_position_embeddings = nn.Embedding(spec.positions, width)
        self.reference_points = nn.Parameter(_even_points(spec.side, spec.trained))
        self.layers = nn.ModuleList(Layer(spec) for _ in range(spec.layers))
        self.output_proj = _linear_where_needed(width, out_dim)
        self.spec = spec
        self.apply(_init)

    def forward(self, features: Features) -> Features:
        grid, held = self.spec.cells(features.grid), (features.grid[0], features.grid[1])
        cells = self.input_proj[0](features.values) + positions_for(held, self.v_pos_emb, self.spec.trained)
        pooled = F.adaptive_avg_pool2d(cells.transpose(1, 2).unflatten(2, held), (grid[0], grid[1]))
        position = pooled.flatten(2).transpose(1, 2)
        x = self.query_position_embeddings.weight.expand_as(position)
        for layer in self.layers:
            x = layer(x, position, cells, held, self.reference_points)
        return Features(self.output_proj(x), grid)


class Layer(nn.Module):
    """Attention among the queries, deformable attention to the map, MLP; a norm after each is added."""

    def __init__(self, spec: DAbstractor) -> None:
        super().__init__()
        self.self_attn = SelfAttention(spec)
        self.self_attn_layer_norm = nn.LayerNorm(spec.width)
        self.encoder_attn = DeformableAttention(spec)
        self.encoder_attn_layer_norm = nn.LayerNorm(spec.width)
        self.fc1 = nn.Linear(spec.width, spec.mlp_dim)
        self.fc2 = nn.Linear(spec.mlp_dim, spec.width)
        self.final_layer_norm = nn.LayerNorm(spec.width)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(
        self,
        x: Float[Tensor, "views queries width"],
        position: Float[Tensor, "views queries width"],
        cells: Float[Tensor, "views cells width"],
        grid: Hw,
        points: Float[Tensor, "1 queries 2"],
    ) -> Float[Tensor, "views queries width"]:
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, position)))
        x = self.encoder_attn_layer_norm(x + self.dropout(self.encoder_attn(x + position, cells, grid, points)))
        return self.final_layer_norm(x + self.dropout(self.fc2(F.relu(self.fc1(x)))))


class SelfAttention(nn.Module):
    """Multi-head attention; positions enter queries and keys, not values."""

    def __init__(self, spec: DAbstractor) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(spec.width, spec.width) for _ in range(4))
        self.heads = spec.heads

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        projected = (self.q_proj(x + position), self.k_proj(x + position), self.v_proj(x))
        query, key, value = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in projected)
        return self.out_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class DeformableAttention(nn.Module):
    """Each head of a query reads the map at a few points around the query's reference point."""

    def __init__(self, spec: DAbstractor) -> None:
        super().__init__()
        self.sampling_offsets = nn.Linear(spec.width, spec.heads * spec.points * 2)
        self.attention_weights = nn.Linear(spec.width, spec.heads * spec.points)
        self.value_proj = nn.Linear(spec.width, spec.width)
        self.output_proj = nn.Linear(spec.width, spec.width)
        self.heads, self.points = spec.heads, spec.points

    def forward(
        self,
        query: Float[Tensor, "views queries width"],
        cells: Float[Tensor, "views cells width"],
        grid: Hw,
        points: Float[Tensor, "1 queries 2"],
    ) -> Float[Tensor, "views queries width"]:
        offsets = self.sampling_offsets(query).unflatten(2, (self.heads, self.points, 2)).float()
        cell = offsets.new_tensor([grid[1], grid[0]])  # offsets count cells, x first
        at = points[:, :, None, None].float() + offsets / cell
        weights = self.attention_weights(query).unflatten(2, (self.heads, self.points)).softmax(-1)
        values = self.value_proj(cells).unflatten(2, (self.heads, -1)).unflatten(1, grid)
        return self.output_proj(sample(values, at, weights))


def sample(
    values: Float[Tensor, "views rows columns heads dim"],
    at: Float[Tensor, "views queries heads points 2"],
    weights: Float[Tensor, "views queries heads points"],
) -> Float[Tensor, "views queries width"]:
    """Weighted sums of values read bilinearly at points (x, y) in [0, 1]; outside the map they are zero.

    The reading is in float32 whatever the values' precision, as in the original.
    """
    maps = values.permute(0, 3, 4, 1, 2).flatten(0, 1).float()
    where = 2 * at.transpose(1, 2).flatten(0, 1) - 1
    read = F.grid_sample(maps, where, mode="bilinear", padding_mode="zeros", align_corners=False)
    shares = weights.transpose(1, 2).flatten(0, 1).float()[:, None]
    summed = (read * shares).sum(-1).unflatten(0, (len(values), -1))
    return summed.flatten(1, 2).transpose(1, 2).to(values.dtype)


def _even_points(side: int, trained: Hw) -> Tensor:
    """(1, side * side, 2): x and y in equal steps over the map, half a cell inside its edges."""
    rows, columns = (torch.linspace(0.5, cells - 0.5, side) / cells for cells in trained)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)[None]


def _linear_where_needed(in_dim: int, out_dim: int) -> nn.Module:
    return nn.Linear(in_dim, out_dim) if in_dim != out_dim else nn.Identity()


def _init(module: nn.Module) -> None:
    """khanrc/honeybee@68a8d84 honeybee/common_layers.py:53-69; it overrides Deformable DETR's ring of offsets."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=STD)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
