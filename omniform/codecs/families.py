"""What codecs of pictures and of sound share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from omniform.geometry import Grid
from omniform.parts import Codec


@dataclass(frozen=True, kw_only=True)
class ImageCodec(Codec):
    """A codec of pictures; `mean`, `std` and `resample` as an encoder's."""

    abstract: ClassVar[bool] = True
    modality: ClassVar[str] = "image"

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resample: Literal["bicubic", "bilinear", "lanczos"] = "lanczos"


@dataclass(frozen=True, kw_only=True)
class AudioCodec(Codec):
    """A codec of mono sound of `rate` samples a second."""

    abstract: ClassVar[bool] = True
    modality: ClassVar[str] = "audio"

    rate: int

    @property
    def size(self) -> Grid:
        return (self.rate,)
