"""Linear layers with GELU between, cell by cell (LLaVA-1.5, arXiv:2310.03744 section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.parts import Connector


@dataclass(frozen=True, kw_only=True)
class Mlp(Connector):
    """`depth` linear layers with exact GELU between; keeps the map."""

    implementation = "omniform.connectors.mlp_module:MlpModule"

    depth: int = 2

    @property
    def title(self) -> str:
        return "MLP" if self.depth > 1 else "Linear"

    def num_params(self, in_dim: int, out_dim: int) -> int:
        return (in_dim + 1) * out_dim + (self.depth - 1) * (out_dim + 1) * out_dim
