"""Linear layers, each followed by a layer norm, GELU between (Yi-VL, 01-ai/Yi@f73194c VL/README.md)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.parts import Connector


@dataclass(frozen=True, kw_only=True)
class NormedMlp(Connector):
    """`depth` linear layers, a layer norm after every one, also the last; keeps the map."""

    implementation = "omniform.connectors.normed_mlp_module:NormedMlpModule"

    depth: int = 2

    @property
    def title(self) -> str:
        return "MLP"

    def num_params(self, in_dim: int, out_dim: int) -> int:
        linear = (in_dim + 1) * out_dim + (self.depth - 1) * (out_dim + 1) * out_dim
        return linear + self.depth * 2 * out_dim
