"""What codecs of pictures and of sound share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from omniform.geometry import Grid, Hw
from omniform.parts import Codec, Sight


@dataclass(frozen=True, kw_only=True)
class ImageCodec(Codec):
    """A codec of pictures; `mean`, `std` and `resample` as an encoder's."""

    abstract: ClassVar[bool] = True
    modality: ClassVar[str] = "image"

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resample: Literal["bicubic", "bilinear", "lanczos"] = "lanczos"

    def sight(self, cells: Callable[[Hw], Grid]) -> Sight:
        height, width = self.size
        return Sight(size=(height, width), mean_rgb=(127, 127, 127), cells=cells)

    def extent(self, view: Hw) -> Grid:
        return view


@dataclass(frozen=True, kw_only=True)
class AudioCodec(Codec):
    """A codec of mono sound of `rate` samples a second."""

    abstract: ClassVar[bool] = True
    modality: ClassVar[str] = "audio"

    rate: int

    @property
    def size(self) -> Grid:
        return (self.rate,)

    def sight(self, cells: Callable[[Hw], Grid]) -> Sight:
        return Sight(size=(1, self.rate), mean_rgb=(0, 0, 0), cells=cells, rate=self.rate)

    def extent(self, view: Hw) -> Grid:
        return view[1:]
