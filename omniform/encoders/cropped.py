"""One encoder over the crops of a view, and over the whole view made small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Encoder, Rules, Shrunk


@dataclass(frozen=True, kw_only=True)
class Cropped(Encoder):
    """A view of `side` times the inner encoder's size goes in as `side` x `side` crops, row-major, after the whole.

    The whole is made small from normalised pixels, bilinearly and without antialias (dvlab-research/MGM@769820c
    mgm/train/train.py:1005-1027). Cells are (pieces, rows, columns).

    Attributes:
        inner: the encoder; its mean, standard deviation and filter are this one's too.
        overview: whether the whole view is a piece.
    """

    implementation = "omniform.encoders.cropped_module:CroppedModule"

    inner: Encoder
    side: int = 2
    overview: bool = True

    def __post_init__(self) -> None:
        if self.side < 1:
            raise SpecError(f"side {self.side}: give at least 1")
        if len(self.inner.cells(self.inner.size)) != 2:
            raise SpecError(
                f"Cropped keeps a map of each crop, but {type(self.inner).__name__} gives "
                f"{self.inner.cells(self.inner.size)} cells without one; use an encoder that keeps it"
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
        return self.inner.dim

    @property
    def size(self) -> Hw:
        return self.inner.size[0] * self.side, self.inner.size[1] * self.side

    @property
    def pieces(self) -> int:
        """Pictures that the inner encoder sees of one view."""
        return self.side**2 + self.overview

    def cells(self, size: Hw) -> Grid:
        if size != self.size:
            raise SpecError(f"Cropped reads {self.size} views, got {size}; use views that keep its size")
        return (self.pieces, *self.inner.cells(self.inner.size))

    def num_params(self) -> int:
        return self.inner.num_params()

    def learnable_params(self, first_layer: int = 0) -> int:
        return self.inner.learnable_params(first_layer)

    def flops(self, size: Hw) -> int:
        return self.pieces * self.inner.flops(self.inner.size)

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(inner=self.inner.shrunk(size))
