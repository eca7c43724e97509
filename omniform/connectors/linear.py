"""One linear layer, cell by cell (LLaVA, arXiv:2304.08485 section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.parts import Connector


@dataclass(frozen=True, kw_only=True)
class Linear(Connector):
    """One linear layer with bias; keeps the map."""

    implementation = "omniform.connectors.linear_module:LinearModule"

    def num_params(self, in_dim: int, out_dim: int) -> int:
        return (in_dim + 1) * out_dim
