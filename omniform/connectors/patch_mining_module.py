"""Module of `connectors.patch_mining`."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.connectors.mlp import Mlp
from omniform.connectors.mlp_module import MlpModule
from omniform.connectors.patch_mining import PatchMining, overviews
from omniform.geometry import Hw


class PatchMiningModule(MlpModule):
    """Shapes: (views, coarse cells, in_dim) and (views, fine cells, width) -> (views, coarse cells, out_dim)."""

    def __init__(self, spec: PatchMining, in_dim: int, out_dim: int, others: tuple[int, ...]) -> None:
        super().__init__(Mlp(depth=spec.depth), in_dim, out_dim)
        self.query = _normed(in_dim, in_dim)
        self.key, self.value = (_normed(others[0], in_dim) for _ in range(2))
        self.spec = spec

    def forward(self, features: Features, *others: Features) -> Features:
        grid, (fine,) = self.spec.cells(features.grid, *(o.grid for o in others)), others
        under = self.spec.under(features.grid, fine.grid)
        mined = [self.mine(cells, patches(maps, under)) for cells, maps in _pairs(features, fine)]
        return Features(self.layers(torch.cat(mined, dim=1)), grid)

    def mine(
        self, cells: Float[Tensor, "views cells in_dim"], fine: Float[Tensor, "views cells under width"]
    ) -> Float[Tensor, "views cells in_dim"]:
        """The cells, and what each found among its own fine cells."""
        query, key, value = self.query(cells), self.key(fine), self.value(fine)
        shares = torch.einsum("vcd,vcud->vcu", query, key / key.shape[-1] ** 0.5).softmax(-1)
        return cells + torch.einsum("vcu,vcud->vcd", shares, value)


def patches(maps: Float[Tensor, "views pieces height width dim"], under: Hw) -> Float[Tensor, "views cells under dim"]:
    """Maps cut into patches of (rows, columns) cells, row-major within each piece."""
    height, width = maps.shape[2] // under[0], maps.shape[3] // under[1]
    cut = maps.unflatten(3, (width, under[1])).unflatten(2, (height, under[0]))
    return cut.transpose(3, 4).flatten(4, 5).flatten(1, 3)


def _pairs(features: Features, fine: Features) -> Iterator[tuple[Tensor, Tensor]]:
    """Coarse cells and the fine maps that they read: the whole first, then the crops."""
    whole = fine.values.unflatten(1, fine.grid)
    if len(features.grid) == 2:
        yield features.values, whole[:, None]
        return
    pieces, rows, columns = features.grid
    side, lead = isqrt(pieces), overviews(pieces) * rows * columns
    crop = fine.grid[0] // side, fine.grid[1] // side
    if lead:
        small = F.interpolate(whole.permute(0, 3, 1, 2).float(), size=crop, mode="bilinear", align_corners=False)
        yield features.values[:, :lead], small.to(whole.dtype).permute(0, 2, 3, 1)[:, None]
    yield features.values[:, lead:], patches(whole[:, None], crop).unflatten(2, crop)


def _normed(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(in_dim), nn.Linear(in_dim, out_dim))
