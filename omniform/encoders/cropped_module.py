"""Module of `encoders.cropped`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from omniform.batch import Features
from omniform.encoders.cropped import Cropped
from omniform.encoders.image_module import ImageEncoder


class CroppedModule(ImageEncoder):
    """(views, 3, height, width) -> features of the pieces, one after the other."""

    def __init__(self, spec: Cropped) -> None:
        super().__init__(spec)
        self.inner: Any = spec.inner.build()
        self.spec = spec

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        return self.read(self.cut(pixels))

    def cut(self, pixels: Float[Tensor, "views 3 height width"]) -> Float[Tensor, "views pieces 3 rows columns"]:
        """The whole made small, then the crops."""
        side, size = self.spec.side, self.spec.inner.size
        crops = pixels.unflatten(3, (side, size[1])).unflatten(2, (side, size[0]))
        crops = crops.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        if not self.spec.overview:
            return crops
        whole = F.interpolate(pixels.float(), size=size, mode="bilinear", align_corners=False).to(pixels.dtype)
        return torch.cat([whole[:, None], crops], dim=1)

    def read(self, pieces: Float[Tensor, "views pieces 3 rows columns"]) -> Features:
        """Features of pieces that are cut already."""
        features = self.inner(pieces.flatten(0, 1))
        values = features.values.unflatten(0, pieces.shape[:2]).flatten(1, 2)
        return Features(values, (pieces.shape[1], *features.grid))

    def idle(self) -> tuple[str, ...]:
        return tuple(f"inner.{prefix}" for prefix in self.inner.idle())

    def layer_prefix(self) -> str:
        return f"inner.{self.inner.layer_prefix()}"
