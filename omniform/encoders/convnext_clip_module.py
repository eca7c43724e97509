"""Module of `encoders.convnext_clip`; names inside are those of the releases (timm's)."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.convnext_clip import DOWN, STEM, WIDE, ConvNextClip
from omniform.encoders.image_module import ImageEncoder

EPS, STD, SCALE = 1e-6, 0.02, 1e-6


class ConvNextClipModule(ImageEncoder):
    """(views, 3, height, width) -> the taken stages' features at the map of the first of them."""

    def __init__(self, spec: ConvNextClip) -> None:
        super().__init__(spec)
        first = spec.widths[0]
        self.stem = nn.Sequential(nn.Conv2d(3, first, STEM, stride=STEM), ChannelNorm(first, eps=EPS))
        widths = zip((None, *spec.widths), spec.widths, spec.depths, strict=False)
        self.stages = nn.ModuleList(Stage(above, width, depth) for above, width, depth in widths)
        self.spec = spec
        self.apply(_init)

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        x, maps = self.stem(pixels), []
        for number, stage in enumerate(self.stages[: self.spec.taken[-1] + 1]):
            x = stage(x)
            if number in self.spec.taken:
                maps.append(x)
        grid = self.spec.cells((pixels.shape[2], pixels.shape[3]))
        joined = torch.cat([maps[0], *(_enlarged(m, (grid[0], grid[1])) for m in maps[1:])], dim=1)
        return Features(joined.flatten(2).transpose(1, 2), grid)

    def idle(self) -> tuple[str, ...]:
        return tuple(f"stages.{i}." for i in range(self.spec.taken[-1] + 1, len(self.spec.widths)))

    def layer_prefix(self) -> str:
        return "stages."


class Stage(nn.Module):
    """Half the sides, except in the first stage, then blocks."""

    def __init__(self, above: int | None, width: int, depth: int) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if above is not None:
            self.downsample = nn.Sequential(ChannelNorm(above, eps=EPS), nn.Conv2d(above, width, DOWN, stride=DOWN))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))

    def forward(self, x: Float[Tensor, "views above rows columns"]) -> Float[Tensor, "views width rows_ columns_"]:
        return self.blocks(self.downsample(x))


class Block(nn.Module):
    """Depthwise 7x7, norm, MLP; scaled channel by channel and added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        layers = {"fc1": nn.Linear(width, WIDE * width), "act": nn.GELU(), "fc2": nn.Linear(WIDE * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.gamma = nn.Parameter(torch.full((width,), SCALE))

    def forward(self, x: Float[Tensor, "views width rows columns"]) -> Float[Tensor, "views width rows columns"]:
        y = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        return x + (y * self.gamma).permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x.float(), size=size, mode="bilinear", align_corners=False).to(x.dtype)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
