"""Rows in the sequence of a backbone with low-rank adapters of its own (LoRA, arXiv:2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omniform.fusion.splice import Splice
from omniform.geometry import SpecError
from omniform.parts import Backbone


@dataclass(frozen=True, kw_only=True)
class AdaptedSplice(Splice):
    """Rows replace embeddings; adapters on the query and value projections of every layer act on all positions.

    They came with the input and stay apart from the frozen backbone's weights, as releases hold them under peft's
    names. Without media they act all the same.

    Attributes:
        rank, alpha: what an adapter adds is scaled by alpha / rank.
        dropout: before an adapter, in training.
    """

    implementation = "omniform.fusion.adapted_splice_module:AdaptedSpliceModule"

    rank: int
    alpha: float
    dropout: float = 0.0

    def check(self, backbone: Backbone) -> None:
        if len(_projections(backbone)) != 3:
            raise SpecError(
                f"{type(self).__name__} adapts query and value projections, but {type(backbone).__name__} has none of "
                "their own; use Splice, or a backbone such as Llama"
            )

    def num_params(self, backbone: Backbone, width: int) -> int:
        query, _, value = _projections(backbone)
        return backbone.layers * self.rank * (sum(query) + sum(value))

    def flops(self, backbone: Backbone, width: int, positions: int, rows: int) -> int:
        return 2 * positions * self.num_params(backbone, width)


def _projections(backbone: Any) -> list[tuple[int, int]]:
    """(in, out) of the query, key and value projections of a layer."""
    return list(backbone.linears().get("qkv", ()))
