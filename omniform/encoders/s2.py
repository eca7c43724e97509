"""One encoder at several scales, its features joined on channels (S2, arXiv:2403.13043; Bunny, arXiv:2402.11530)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Encoder, Rules, Shrunk


@dataclass(frozen=True, kw_only=True)
class S2(Encoder):
    """A view of the largest scale goes down to each scale, in tiles of the inner encoder's size.

    Scales are made from normalised pixels by bicubic interpolation without antialias; each scale's feature map is
    averaged to the inner encoder's own map (BAAI-DCAI/Bunny@08273ac bunny/util/s2wrapper/core.py).

    Attributes:
        inner: the encoder; its mean, standard deviation and filter are this one's too.
        sides: tiles a side of the scales, in growing order.
    """

    implementation = "omniform.encoders.s2_module:S2Module"

    inner: Encoder
    sides: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        if not self.sides or any(a >= b for a, b in pairwise((0, *self.sides))):
            raise SpecError(f"sides {self.sides} must grow from at least 1")
        if len(self.inner.cells(self.inner.size)) != 2:
            raise SpecError(
                f"S2 lays tiles of {type(self.inner).__name__} side by side, but it gives "
                f"{self.inner.cells(self.inner.size)} cells without a map; use an encoder that keeps it"
            )
        for name in ("mean", "std", "resample"):
            object.__setattr__(self, name, getattr(self.inner, name))

    @property
    def released(self) -> Rules:  # type: ignore[override]  # the class attribute of families is an instance's here
        return tuple((theirs, f"inner.{ours}") for theirs, ours in self.inner.released or (("", ""),))

    @property
    def title(self) -> str:
        return self.inner.title

    @property
    def dim(self) -> int:
        return self.inner.dim * len(self.sides)

    @property
    def size(self) -> Hw:
        return self.inner.size[0] * self.sides[-1], self.inner.size[1] * self.sides[-1]

    def cells(self, size: Hw) -> Grid:
        if size != self.size:
            raise SpecError(f"S2 reads {self.size} views, got {size}; use views that keep its size")
        return self.inner.cells(self.inner.size)

    def num_params(self) -> int:
        return self.inner.num_params()

    def learnable_params(self, first_layer: int = 0) -> int:
        return self.inner.learnable_params(first_layer)

    def flops(self, size: Hw) -> int:
        return sum(side**2 for side in self.sides) * self.inner.flops(self.inner.size)

    def shrunk(self, size: Shrunk) -> Self:
        """At nano two scales, because every scale costs as many views as it has tiles."""
        sides = self.sides[:2] if size == "nano" else self.sides
        return self.but(inner=self.inner.shrunk(size), sides=sides)
