"""An encoder's features as codes: few numbers for each cell, the nearest entry of a codebook, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from omniform.codecs.families import ImageCodec
from omniform.geometry import Grid, SpecError
from omniform.parts import Connector, Encoder, Part, Shrunk


@dataclass(frozen=True, kw_only=True)
class Quantised(ImageCodec):
    """One code for each cell after the connector; of an encoder that chooses, for each cell that it keeps.

    Mean, standard deviation and filter are the encoder's.

    Attributes:
        name, writer_name: the codec and its second half, as the field calls them; "" is the encoder's title, and the
            same name.
        encoder, connector: of pictures; the connector's output is what is compared with the codebook.
        dim, entries: of the codebook.
        unit: whether what is compared is brought to length 1 before; entries are taken as they are held.
        detokenizer: entries -> condition (`codecs.query_detokenizer`).
        painter: condition -> picture (`codecs.painter`).
    """

    implementation = "omniform.codecs.quantised_module:QuantisedModule"

    name: str = ""
    writer_name: str = ""
    encoder: Encoder
    connector: Connector
    dim: int = 32
    entries: int = 16384
    unit: bool = False
    detokenizer: Part
    painter: Part

    def __post_init__(self) -> None:
        for name in ("mean", "std", "resample"):
            object.__setattr__(self, name, getattr(self.encoder, name))
        given: Any = self.detokenizer
        wanted: Any = self.painter
        for what in ("condition", "pooled"):
            if getattr(given, what) != getattr(wanted, what):
                raise SpecError(
                    f"{type(given).__name__} gives {what} of width {getattr(given, what)}, {type(wanted).__name__} "
                    f"reads {getattr(wanted, what)}; change one of them"
                )

    @property
    def title(self) -> str:
        return self.name or self.encoder.title

    @property
    def writer(self) -> str:
        return self.writer_name or self.title

    @property
    def codebook(self) -> int:
        return self.entries

    @property
    def counted(self) -> bool:
        return not self.encoder.selects

    @property
    def lent(self) -> Encoder:
        return self.encoder

    @property
    def size(self) -> Grid:
        return self.encoder.size

    @property
    def written(self) -> Grid:
        painter: Any = self.painter
        return painter.image, painter.image

    def cells(self, extent: Grid) -> Grid:
        if tuple(extent) != self.size:
            raise SpecError(f"pictures of {self.size} become codes, got {tuple(extent)}; resize it first")
        return self.connector.cells(*self.encoder.grids(self.encoder.size))

    # -- cost --

    def num_params(self) -> int:
        detokenizer: Any = self.detokenizer
        painter: Any = self.painter
        there = self.encoder.num_params() + self.connector.num_params(self.encoder.dim, self.dim)
        back = int(detokenizer.num_params(self.codes(self.size), self.dim)) + int(painter.num_params())
        return there + self.entries * self.dim + back

    def flops(self, extent: Grid) -> int:
        cells, size = self.codes(extent), self.encoder.size
        connector = self.connector.flops(self.encoder.cells(size), self.encoder.dim, self.dim)
        return self.encoder.flops(size) + connector + 2 * cells * self.dim * self.entries

    def decode_flops(self, extent: Grid) -> int:
        """Of painting a picture of (height, width)."""
        detokenizer: Any = self.detokenizer
        painter: Any = self.painter
        codes = self.codes(self.size)
        return int(detokenizer.flops(codes, self.dim)) + int(painter.flops(extent, codes))

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(
            encoder=self.encoder.shrunk(size), connector=self.connector.shrunk(size), dim=8 if size == "tiny" else 16,
            entries=24 if size == "tiny" else 256, detokenizer=self.detokenizer.shrunk(size),
            painter=self.painter.shrunk(size),
        )  # fmt: skip
