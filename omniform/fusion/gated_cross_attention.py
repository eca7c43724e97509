"""Gated cross-attention between a frozen language model's layers (Flamingo, arXiv:2204.14198 section 2.2).

mlfoundations/open_flamingo@655f693 open_flamingo/src/helpers.py:136-279, flamingo_lm.py:85-99.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.geometry import SpecError
from omniform.parts import Backbone, Fusion, Shrunk


@dataclass(frozen=True, kw_only=True)
class GatedCrossAttention(Fusion):
    """Before the last layer of each group, text attends to the medium right before it, then passes an MLP of its own.

    Both are added through gates that begin closed. Rows of media keep their own width and take no positions; text
    before the first medium sees none.

    Attributes:
        every: layers of a group.
        head_dim: width of a head; queries, keys and values are `heads * head_dim` wide, whatever the backbone is.
        mlp_ratio: width of the MLP in widths of the backbone.
    """

    in_sequence = False
    implementation = "omniform.fusion.gated_cross_attention_module:GatedCrossAttentionModule"

    every: int = 1
    heads: int = 8
    head_dim: int = 64
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        if min(self.every, self.heads, self.head_dim, self.mlp_ratio) < 1:
            raise SpecError(
                f"every {self.every} layers, {self.heads} heads of {self.head_dim}, MLP of {self.mlp_ratio} widths: "
                "give at least 1 of each"
            )

    def check(self, backbone: Backbone) -> None:
        if not self.gated(backbone):
            raise SpecError(
                f"cross-attention before every {self.every}th layer, but the backbone has {backbone.layers} layers: no "
                f"media would be seen; give every={backbone.layers} or less"
            )

    def gated(self, backbone: Backbone) -> range:
        """Numbers of the layers that cross-attention stands before."""
        return range(self.every - 1, backbone.layers, self.every)

    def width(self, features: int, dim: int) -> int:
        return features

    def num_params(self, backbone: Backbone, width: int) -> int:
        return len(self.gated(backbone)) * (4 * backbone.dim + 2 + self._weights(backbone.dim, width))

    # of several media each position sees one, but is counted as seeing all
    def flops(self, backbone: Backbone, width: int, positions: int, rows: int) -> int:
        dim, inner = backbone.dim, self.heads * self.head_dim
        text = positions * (2 * dim * inner + 2 * dim * self.mlp_ratio * dim + 2 * rows * inner)
        return 2 * len(self.gated(backbone)) * (text + rows * width * 2 * inner)

    def _weights(self, dim: int, width: int) -> int:
        """Weights of one block's linear layers."""
        inner = self.heads * self.head_dim
        return 2 * dim * inner + 2 * width * inner + 2 * dim * self.mlp_ratio * dim

    def shrunk(self, size: Shrunk) -> Self:
        heads, head_dim = (2, 8) if size == "tiny" else (4, 16)
        return self.but(every=min(self.every, 2), heads=heads, head_dim=head_dim)
