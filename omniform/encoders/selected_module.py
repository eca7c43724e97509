"""Module of `encoders.selected`."""

from __future__ import annotations

import zlib
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.image_module import ImageEncoder
from omniform.encoders.selected import Selected


class SelectedModule(ImageEncoder):
    """(views, 3, height, width) -> features of all cells; `choose` says which of them are kept."""

    def __init__(self, spec: Selected) -> None:
        super().__init__(spec)
        self.inner: Any = spec.inner.build()
        self.selector = Selector(spec.dim)
        self.spec = spec

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        return self.inner(pixels)

    def choose(self, views: UInt8[Tensor, "views 3 height width"]) -> Bool[Tensor, "views cells"]:
        """Cells of 8-bit views that are kept."""
        features = self(self.normalise(views)).values
        return self.kept(features, noise_of(views, features.shape[1]) if self.spec.drawn else None)

    def kept(
        self, features: Float[Tensor, "views cells dim"], noise: Float[Tensor, "views cells 2"] | None = None
    ) -> Bool[Tensor, "views cells"]:
        """Cells that are kept: where keeping is likelier than dropping, after Gumbel noise where there is any.

        Of a view that would keep none the cell that is nearest to it is kept.
        """
        log_probs = self.selector(features)
        keep, drop = (log_probs if noise is None else log_probs + noise.to(log_probs)).unbind(-1)
        nearest = F.one_hot((keep - drop).argmax(1), keep.shape[1]).bool()
        return torch.where((keep >= drop).any(1, keepdim=True), keep >= drop, nearest)

    def idle(self) -> tuple[str, ...]:
        return ("selector.", *(f"inner.{prefix}" for prefix in self.inner.idle()))

    def layer_prefix(self) -> str:
        return f"inner.{self.inner.layer_prefix()}"


class Selector(nn.Module):
    """Log-probabilities of keeping and of dropping each cell, in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim // 4), nn.GELU(), nn.Linear(dim // 4, 2)
        )

    def forward(self, features: Float[Tensor, "views cells dim"]) -> Float[Tensor, "views cells 2"]:
        own, shared = self.in_conv(features).chunk(2, dim=-1)
        x = torch.cat([own, shared.mean(1, keepdim=True).expand_as(shared)], dim=-1)
        return self.out_conv(x).float().log_softmax(-1)


def noise_of(views: UInt8[Tensor, "views 3 height width"], cells: int) -> Float[Tensor, "views cells 2"]:
    """Gumbel noise that depends on nothing but each view's pixels."""
    seeds = [zlib.crc32(view.contiguous().numpy().tobytes()) for view in views.cpu()]
    return torch.stack([gumbel(cells, torch.Generator().manual_seed(seed)) for seed in seeds])


def gumbel(cells: int, random: torch.Generator) -> Float[Tensor, "cells 2"]:
    return -torch.empty(cells, 2).exponential_(generator=random).log()
