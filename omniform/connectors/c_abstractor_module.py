"""Module of `connectors.c_abstractor`; names inside blocks are those of the releases (timm's RegNet)."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.connectors.c_abstractor import CAbstractor, squeeze_dim
from omniform.connectors.map_positions_module import positions_for

EPS = 1e-5
STD = 0.02


class CAbstractorModule(nn.Module):
    """Shapes: (views, rows * columns, in_dim) -> (views, positions, out_dim)."""

    def __init__(self, spec: CAbstractor, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.pos_emb = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, prod(spec.trained), in_dim), std=STD))
        self.before = _stage(spec.blocks(in_dim))
        self.after = _stage(spec.blocks(spec.width))
        readout: list[nn.Module] = [nn.Linear(spec.width, out_dim)]
        for _ in range(spec.mlp_depth - 1):
            readout += [nn.SiLU(), nn.Linear(out_dim, out_dim)]
        self.readout = nn.Sequential(*readout)
        self.spec = spec
        self.apply(_init)

    def forward(self, features: Features) -> Features:
        grid = self.spec.cells(features.grid)
        x = features.values + positions_for(features.grid, self.pos_emb, self.spec.trained)
        x = x.transpose(1, 2).unflatten(2, features.grid)
        x = self.after(F.adaptive_avg_pool2d(self.before(x), (grid[0], grid[1])))
        return Features(self.readout(x.flatten(2).transpose(1, 2)), grid)


def _stage(widths: tuple[tuple[int, int], ...]) -> nn.Sequential:
    return nn.Sequential(OrderedDict((f"b{i}", Block(a, b)) for i, (a, b) in enumerate(widths, 1)))


class Block(nn.Module):
    """1x1, depthwise 3x3, squeeze and excitation, 1x1; added to the block's input, then SiLU."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_dim, dim)
        self.conv2 = ConvNorm(dim, dim, kernel=3, groups=dim)
        self.se = SqueezeExcite(dim, squeeze_dim(in_dim))
        self.conv3 = ConvNorm(dim, dim)
        self.downsample = ConvNorm(in_dim, dim) if in_dim != dim else nn.Identity()

    def forward(self, x: Float[Tensor, "views in_dim rows columns"]) -> Float[Tensor, "views dim rows columns"]:
        y = self.se(F.silu(self.conv2(F.silu(self.conv1(x)))))
        return F.silu(self.conv3(y) + self.downsample(x))


class ConvNorm(nn.Module):
    """A convolution without bias, then a layer norm over channels."""

    def __init__(self, in_dim: int, dim: int, kernel: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SqueezeExcite(nn.Module):
    """Channels gated by what the whole map holds."""

    def __init__(self, dim: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.silu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


def _init(module: nn.Module) -> None:
    """khanrc/honeybee@68a8d84 honeybee/common_layers.py:53-69."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, std=STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
