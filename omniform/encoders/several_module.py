"""Module of `encoders.several`."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from omniform.encoders.joined_module import JoinedModule


class SeveralModule(JoinedModule):
    """Views -> pixels for each member -> features of each member."""

    def normalise(self, pixels: UInt8[Tensor, "views 3 height width"]) -> tuple[Tensor, ...]:
        """Each member's normalised pixels, (views, 3, height, width) of its own size."""
        pairs = zip(self.members, self.spec.members, strict=True)
        return tuple(self._sized(member.normalise(pixels), spec.size) for member, spec in pairs)

    def _sized(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        if pixels.shape[2:] == size:
            return pixels
        return F.interpolate(pixels.float(), size=size, mode=self.spec.down).to(pixels.dtype)
