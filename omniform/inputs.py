"""How a modality enters: as features, with another input's parts, or as tokens of a codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from omniform.geometry import Grid, Hw, MediaSize, Plan, SpecError
from omniform.grammar import CodeSpan
from omniform.parts import Codec, Connector, Encoder, Fusion, Sight, Views


@dataclass(frozen=True, kw_only=True)
class Continuous:
    """A modality that enters as features: encoder -> connector -> rows, laid out by views, met by fusion."""

    encoder: Encoder
    connector: Connector
    views: Views
    fusion: Fusion

    def __post_init__(self) -> None:
        if self.connector.needs != len(self.encoder.dims):
            raise SpecError(
                f"{type(self.connector).__name__} reads the features of {self.connector.needs} encoders, but "
                f"{type(self.encoder).__name__} gives {len(self.encoder.dims)}; encoder Several(members=...) joins "
                "several, and connectors Linear and Mlp read one"
            )

    def sight(self) -> Sight:
        return self.encoder.sight(self.cells)

    def cells(self, size: Hw) -> Grid:
        """Cells of one view of (height, width) pixels, after the connector."""
        return self.connector.cells(*self.encoder.grids(size))

    def widths(self, dim: int) -> dict[str, Any]:
        """What the connector's `build` and `num_params` take beside a backbone of width `dim`."""
        first, *others = (d * self.views.scales for d in self.encoder.dims)
        return {"in_dim": first, "out_dim": self.width(dim), **({"others": tuple(others)} if others else {})}

    @property
    def usual(self) -> MediaSize:
        """A medium of the size that the encoder was made for."""
        return self.encoder.usual

    def width(self, dim: int) -> int:
        return self.fusion.width(self.encoder.dim, dim)

    def said(self, coded: Coded) -> Discrete:
        """A medium of the modality that the system itself said, as codes; it is cut as those that are read."""
        return Discrete(codec=coded.codec, span=coded.span, views=self.views)

    def lends(self, codec: Codec) -> bool:
        """Whether the encoder is a codec's, too."""
        return codec.lent == self.encoder

    def positions(self, plan: Plan) -> int:
        """Positions of a medium in the sequence."""
        return plan.positions if self.fusion.in_sequence else 0


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A modality that uses another input's encoder, connector and fusion with views of its own.

    Attributes:
        encoder: one of its own, which gives features of the same widths; None is the other input's.
    """

    input: str
    views: Views
    encoder: Encoder | None = None


@dataclass(frozen=True, kw_only=True)
class Coded:
    """A modality as tokens of a codec in the backbone's vocabulary."""

    codec: Codec
    span: CodeSpan


@dataclass(frozen=True, kw_only=True)
class Discrete(Coded):
    """A modality that enters as such tokens.

    Attributes:
        views: how a medium of any size becomes what the codec reads.
    """

    views: Views

    def sight(self) -> Sight:
        return self.codec.sight(self.cells)

    def cells(self, size: Hw) -> Grid:
        """Codes of one view, at most where its extent does not fix their number."""
        return (self.codec.codes(self.codec.extent(size)),)

    @property
    def usual(self) -> MediaSize:
        """A medium of the size that the codec was made for."""
        *rows, last = self.codec.size
        return MediaSize(width=last, height=rows[0]) if rows else MediaSize(samples=last, rate=last)

    def positions(self, plan: Plan) -> int:
        """Positions that a medium takes: its codes, begin and end."""
        return plan.positions + 2


Input: TypeAlias = Continuous | Shared | Discrete
