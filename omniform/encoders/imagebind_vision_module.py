"""Module of `encoders.imagebind_vision`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.image_module import ImageEncoder, square_positions
from omniform.encoders.imagebind_vision import ImageBindVision
from omniform.encoders.layers_module import Mlp

STD = 0.02


class ImageBindVisionModule(ImageEncoder):
    """(views, 3, image, image) -> one embedding a view."""

    def __init__(self, spec: ImageBindVision) -> None:
        super().__init__(spec)
        width, held = spec.width, (spec.held_image // spec.patch) ** 2
        kernel = (spec.frames, spec.patch, spec.patch)
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=STD))
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, held + 1, width), std=STD))
        self.patches = nn.Conv3d(3, width, kernel, stride=kernel, bias=False)
        self.pre_norm = nn.LayerNorm(width, eps=spec.norm_eps)
        self.blocks = nn.ModuleList(Block(width, spec.heads, spec.mlp_dim, spec.norm_eps) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(width, eps=spec.norm_eps)
        self.head = nn.Linear(width, spec.out_dim, bias=False)
        self.spec = spec

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        tokens = self.trunk(pixels)
        embedding = self.head(self.norm(tokens[:, :1]))
        return Features(F.normalize(embedding, dim=-1) if self.spec.unit else embedding, (1,))

    def trunk(self, pixels: Float[Tensor, "views 3 height width"]) -> Float[Tensor, "views tokens dim"]:
        """Class token and patches after the last layer."""
        still = pixels[:, :, None].expand(-1, -1, self.spec.frames, -1, -1)
        patches = self.patches(still)[:, :, 0]
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        x = self.pre_norm(x + square_positions(self.positions, (patches.shape[2], patches.shape[3])))
        for block in self.blocks:
            x = block(x)
        return x

    def layer_prefix(self) -> str:
        return "blocks."


class Block(nn.Module):
    """Pre-norm layer of ImageBind's towers; `bias_rows` adds one learned key and value that every token sees."""

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
