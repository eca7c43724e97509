"""Module of `encoders.conv_net`."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.conv_net import ConvNet
from omniform.encoders.image_module import ImageEncoder


class ConvNetModule(ImageEncoder):
    """(views, 3, height, width) -> one row of features per cell of `stride` pixels a side."""

    def __init__(self, spec: ConvNet) -> None:
        super().__init__(spec)
        self.stages = nn.Sequential(*(Stage(a, b, spec.groups) for a, b in pairwise((3, *spec.widths))))

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        x = self.stages(pixels)
        return Features(x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3]))

    def layer_prefix(self) -> str:
        return "stages."


class Stage(nn.Module):
    """Half the sides, then a residual convolution."""

    def __init__(self, in_dim: int, dim: int, groups: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(in_dim, dim, 3, stride=2, padding=1, bias=False)
        self.down_norm = nn.GroupNorm(groups, dim)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.conv_norm = nn.GroupNorm(groups, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.down_norm(self.down(x)))
        return x + F.gelu(self.conv_norm(self.conv(x)))
