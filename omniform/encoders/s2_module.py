"""Module of `encoders.s2`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from omniform.batch import Features
from omniform.encoders.image_module import ImageEncoder
from omniform.encoders.s2 import S2


class S2Module(ImageEncoder):
    """(views, 3, height, width) of the largest scale -> features of all scales on channels, small to large."""

    def __init__(self, spec: S2) -> None:
        super().__init__(spec)
        self.inner: Any = spec.inner.build()
        self.spec = spec

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        views, sides = len(pixels), self.spec.sides
        tiles = [self._tiles(pixels, side) for side in sides]
        features = self.inner(torch.cat(tiles))
        maps = []
        for side, values in zip(sides, features.values.split([len(t) for t in tiles]), strict=True):
            whole = values.unflatten(0, (views, side, side)).unflatten(3, features.grid).permute(0, 5, 1, 3, 2, 4)
            whole = whole.flatten(4, 5).flatten(2, 3)
            maps.append(F.interpolate(whole.float(), size=features.grid, mode="area").to(values.dtype))
        return Features(torch.cat(maps, dim=1).flatten(2).transpose(1, 2), features.grid)

    def _tiles(self, pixels: Tensor, side: int) -> Tensor:
        """(views * side * side, 3, height, width) of the inner size, row-major within each view."""
        height, width = self.spec.inner.size
        size = height * side, width * side
        if pixels.shape[2:] != size:
            pixels = F.interpolate(pixels.float(), size=size, mode="bicubic").to(pixels.dtype)
        tiles = pixels.unflatten(3, (side, width)).unflatten(2, (side, height))
        return tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)

    def idle(self) -> tuple[str, ...]:
        return tuple(f"inner.{prefix}" for prefix in self.inner.idle())

    def layer_prefix(self) -> str:
        return f"inner.{self.inner.layer_prefix()}"
