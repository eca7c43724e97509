"""Learned positions of a feature map, for maps of any size."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from omniform.geometry import Grid, Hw


def positions_for(grid: Grid, table: Float[Tensor, "1 held dim"], trained: Hw) -> Float[Tensor, "1 cells dim"]:
    """The table as it is for the map it was made for; for another map interpolated bicubically."""
    if grid == trained:
        return table
    held = table.unflatten(1, trained).permute(0, 3, 1, 2).float()
    return F.interpolate(held, size=grid, mode="bicubic").to(table.dtype).flatten(2).transpose(1, 2)
