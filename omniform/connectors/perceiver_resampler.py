"""Perceiver resampler: learned latents read the features of a view (Flamingo, arXiv:2204.14198 section 2.1).

mlfoundations/open_flamingo@655f693 open_flamingo/src/helpers.py:16-132.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.geometry import Grid, SpecError, flat_rows
from omniform.parts import Connector, Shrunk


@dataclass(frozen=True, kw_only=True)
class PerceiverResampler(Connector):
    """In every layer latents attend to the features and to themselves, then pass an MLP; all at the features' width.

    Rows keep that width where they are read at it (cross-attention); where another is asked for, one linear layer
    leads there.

    Attributes:
        positions: latents, and so positions given.
        head_dim: width of a head; queries, keys and values are `heads * head_dim` wide, whatever the features are.
        mlp_ratio: width of the MLP in widths of the features.
    """

    implementation = "omniform.connectors.perceiver_resampler_module:PerceiverResamplerModule"

    positions: int = 64
    layers: int = 6
    heads: int = 8
    head_dim: int = 64
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        if min(self.positions, self.layers, self.heads, self.head_dim, self.mlp_ratio) < 1:
            raise SpecError(
                f"{self.positions} latents, {self.layers} layers, {self.heads} heads of {self.head_dim}, MLP of "
                f"{self.mlp_ratio} widths: give at least 1 of each"
            )

    @property
    def title(self) -> str:
        return "Perceiver"

    def cells(self, grid: Grid) -> Grid:
        return (self.positions,)

    def num_params(self, in_dim: int, out_dim: int) -> int:
        attention = 4 * in_dim * self.heads * self.head_dim + 4 * in_dim
        mlp = 2 * in_dim * self.mlp_ratio * in_dim + 2 * in_dim
        latents = self.positions * in_dim
        leading = 0 if in_dim == out_dim else (in_dim + 1) * out_dim
        return latents + self.layers * (attention + mlp) + 2 * in_dim + leading

    def flops(self, grid: Grid, in_dim: int, out_dim: int) -> int:
        inner, latents = self.heads * self.head_dim, self.positions
        seen = flat_rows(grid) + latents
        asking = latents * (2 * in_dim * inner + 2 * in_dim * self.mlp_ratio * in_dim)
        layer = asking + seen * in_dim * 2 * inner + 2 * latents * seen * inner
        leading = 0 if in_dim == out_dim else latents * in_dim * out_dim
        return 2 * (self.layers * layer + leading)

    def shrunk(self, size: Shrunk) -> Self:
        tiny = {"positions": 4, "layers": 2, "heads": 2, "head_dim": 8}
        nano = {"positions": min(self.positions, 16), "layers": 2, "heads": 4, "head_dim": 16}
        return self.but(**(tiny if size == "tiny" else nano))
