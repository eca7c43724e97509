"""Module of `encoders.several`."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.several import Several


class SeveralModule(nn.Module):
    """Views -> pixels for each member -> features of each member."""

    def __init__(self, spec: Several) -> None:
        super().__init__()
        self.members = nn.ModuleList(member.build() for member in spec.members)
        self.spec = spec

    def normalise(self, pixels: UInt8[Tensor, "views 3 height width"]) -> tuple[Tensor, ...]:
        """Each member's normalised pixels, (views, 3, height, width) of its own size."""
        pairs = zip(self._each(), self.spec.members, strict=True)
        return tuple(self._sized(member.normalise(pixels), spec.size) for member, spec in pairs)

    def forward(self, pixels: tuple[Tensor, ...]) -> tuple[Features, ...]:
        return tuple(member(p) for member, p in zip(self._each(), pixels, strict=True))

    def _sized(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        if pixels.shape[2:] == size:
            return pixels
        return F.interpolate(pixels.float(), size=size, mode=self.spec.down).to(pixels.dtype)

    def _each(self) -> tuple[Any, ...]:
        return tuple(self.members)

    def idle(self) -> tuple[str, ...]:
        return tuple(f"members.{i}.{prefix}" for i, member in enumerate(self._each()) for prefix in member.idle())

    def layer_prefix(self) -> str:
        raise ValueError("Several has the numbered layers of each member, not of its own; train it whole")
