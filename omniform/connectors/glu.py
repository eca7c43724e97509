"""A linear layer, then a gated MLP (CogVLM, arXiv:2311.03079 section 2.1, "MLP adapter")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.parts import Connector, Shrunk


@dataclass(frozen=True, kw_only=True)
class Glu(Connector):
    """Linear, layer norm, GELU, SwiGLU, cell by cell; no bias, no residual; keeps the map.

    THUDM/CogVLM@f7283b2 utils/models/eva_clip_model.py: class GLU.

    Attributes:
        mlp_dim: width inside the gated MLP.
    """

    implementation = "omniform.connectors.glu_module:GluModule"

    mlp_dim: int = 11008

    @property
    def title(self) -> str:
        return "MLP"

    def num_params(self, in_dim: int, out_dim: int) -> int:
        return in_dim * out_dim + 2 * out_dim + 3 * out_dim * self.mlp_dim

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(mlp_dim={"tiny": 48, "nano": 256}[size])
