"""What image encoders' modules share: pixels are normalised where they are encoded."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from omniform.batch import Features
from omniform.geometry import Hw
from omniform.parts import Encoder


class ImageEncoder(nn.Module):
    """Base of image encoders: `normalise` 8-bit views, then `forward` gives features."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: Encoder) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(spec.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(3, 1, 1), persistent=False)

    def normalise(self, pixels: UInt8[Tensor, "views 3 height width"]) -> Float[Tensor, "views 3 height width"]:
        """(x / 255 - mean) / std in the encoder's precision; a division, which rounds as processors do."""
        dtype = next(self.parameters()).dtype
        return ((pixels.float() / 255 - self.mean.float()) / self.std.float()).to(dtype)

    def idle(self) -> tuple[str, ...]:
        """Prefixes of parameters that released weights hold but that no feature depends on."""
        return ()

    def layer_prefix(self) -> str:
        """Prefix before a layer's number in parameter names, for stages that train only later layers."""
        raise ValueError(f"{type(self).__name__} has no numbered layers to choose from; train it whole")

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        raise NotImplementedError


def square_positions(
    table: Float[Tensor, "1 held width"], grid: Hw, antialias: bool = False
) -> Float[Tensor, "1 tokens width"]:
    """Learned positions of a class token and a map of `grid` cells; interpolated bicubically where the table's differs.

    Args:
        table: the class token's row, then the rows of a square map.
    """
    side = round((table.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return table
    held = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    new = F.interpolate(held.float(), size=grid, mode="bicubic", antialias=antialias).to(table.dtype)
    return torch.cat([table[:, :1], new.flatten(2).transpose(1, 2)], dim=1)
