"""Codebook entries back to an encoder's features, and these to what a painter reads (arXiv:2309.04669 section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.geometry import SpecError
from omniform.parts import Part, Shrunk


@dataclass(frozen=True, kw_only=True)
class QueryDetokenizer(Part):
    """Learned queries, as many as there can be codes, read the codes of one medium through a transformer.

    jy0205/LaVIT@8cde9b4 LaVIT/models/modeling_decoder.py:83-347.

    Attributes:
        width: of the transformer; also that of the features.
        layers, heads, mlp_ratio: of the transformer.
        conditions: widths of the parts of each condition row, side by side.
        pooled: width of a vector that attention pools from all features; 0: none.
    """

    implementation = "omniform.codecs.query_detokenizer_module:QueryDetokenizerModule"

    width: int = 1408
    layers: int = 12
    heads: int = 16
    mlp_ratio: float = 4.3637
    conditions: tuple[int, ...] = (768,)
    pooled: int = 0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise SpecError(f"width {self.width} does not divide into {self.heads} heads; change one of them")

    @property
    def mlp_dim(self) -> int:
        """Rounded down."""
        return int(self.width * self.mlp_ratio)

    @property
    def condition(self) -> int:
        """Width of a condition's rows."""
        return sum(self.conditions)

    def num_params(self, codes: int, in_dim: int) -> int:
        """Beside at most `codes` codes of width `in_dim`."""
        d, m = self.width, self.mlp_dim
        layer = 8 * d * (d + 1) + 3 * 2 * d + 2 * d * m + d + m
        ends = (in_dim + 1) * d + 2 * codes * d + 2 * d + 2 * d * (d + 1)
        pool = (codes + 1) * d + 3 * d * (d + 1) + (d + 1) * self.pooled if self.pooled else 0
        return ends + self.layers * layer + (d + 1) * self.condition + pool

    def flops(self, codes: int, in_dim: int) -> int:
        """Forward FLOPs of reading as many codes as there are queries."""
        d = self.width
        attention = (self.layers * 2 + bool(self.pooled)) * 4 * codes**2 * d
        return 2 * codes * (self.num_params(codes, in_dim) - 3 * codes * d) + attention

    def shrunk(self, size: Shrunk) -> Self:
        """Rows as wide as a shrunk painter reads."""
        parts = len(self.conditions)
        conditions = (*(2,) * (parts - 1), 8 - 2 * (parts - 1))
        return self.but(
            width=16 if size == "tiny" else 64, layers=2, heads=2, mlp_ratio=2.0, conditions=conditions,
            pooled=8 if self.pooled else 0,
        )  # fmt: skip
