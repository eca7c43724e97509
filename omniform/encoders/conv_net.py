"""A small convolutional encoder for pictures of shapes: what takes a vision transformer's place at nano size."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Encoder, Shrunk, conv_flops


@dataclass(frozen=True, kw_only=True)
class ConvNet(Encoder):
    """Stages of one halving 3x3 convolution and one residual 3x3 convolution, each normalised within its picture.

    Group norm, not batch norm, so that a picture's features do not depend on its batch.

    Attributes:
        image: side of a view, in pixels.
        widths: channels of each stage; the last is the features' width.
        groups: groups of each norm.
    """

    implementation = "omniform.encoders.conv_net_module:ConvNetModule"

    image: int = 64
    widths: tuple[int, ...] = (32, 64, 96, 128)
    groups: int = 8

    def __post_init__(self) -> None:
        if not self.widths or any(width % self.groups for width in self.widths):
            raise SpecError(f"widths {self.widths} must be multiples of the {self.groups} groups of the norms")
        self.cells(self.size)

    @property
    def dim(self) -> int:
        return self.widths[-1]

    @property
    def size(self) -> Hw:
        return self.image, self.image

    @property
    def stride(self) -> int:
        """Pixels a cell stands for, on each side."""
        return 2 ** len(self.widths)

    def cells(self, size: Hw) -> Grid:
        if size[0] % self.stride or size[1] % self.stride:
            raise SpecError(f"ConvNet halves views {len(self.widths)} times: sides {size} must divide by {self.stride}")
        return size[0] // self.stride, size[1] // self.stride

    def num_params(self) -> int:
        return sum(9 * a * b + 9 * b * b + 2 * 2 * b for a, b in pairwise((3, *self.widths)))

    def flops(self, size: Hw) -> int:
        total, area = 0, size[0] * size[1]
        for a, b in pairwise((3, *self.widths)):
            area //= 4
            total += conv_flops(area, 3, a, b) + conv_flops(area, 3, b, b)
        return total

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(image=24, widths=(8, 16, 32)) if size == "tiny" else self
