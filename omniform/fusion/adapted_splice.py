"""Rows in the sequence of a backbone with low-rank adapters of its own (LoRA, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omniform.fusion.splice import Splice
from omniform.geometry import SpecError
from omniform.parts import Backbone


@dataclass(frozen=True, kw_only=True)
class AdaptedSplice(Splice):
    """Rows replace embeddings; adapters on some linear layers of every layer act on all positions.

    They came with the input and stay apart from the frozen backbone's weights, as releases hold them under peft's
    names. Without media they act all the same.

    Attributes:
        layers: names of the linear layers that have one.
        rank, alpha: what an adapter adds is scaled by alpha / rank.
        dropout: before an adapter, in training.
    """

    implementation = "omniform.fusion.adapted_splice_module:AdaptedSpliceModule"

    layers: tuple[str, ...] = ("q_proj", "v_proj")
    rank: int
    alpha: float
    dropout: float = 0.0

    def check(self, backbone: Backbone) -> None:
        known = _linears(backbone)
        if missing := [name for name in self.layers if name not in known]:
            raise SpecError(
                f"{type(self).__name__} adapts {', '.join(missing)}, but {type(backbone).__name__} has no such linear "
                f"layers; it names {', '.join(known) or 'none'}: use Splice, or a backbone such as Llama"
            )

    def num_params(self, backbone: Backbone, width: int) -> int:
        linears = _linears(backbone)
        return backbone.layers * self.rank * sum(sum(linears[name]) for name in self.layers)

    def flops(self, backbone: Backbone, width: int, positions: int, rows: int) -> int:
        return 2 * positions * self.num_params(backbone, width)


ATTENTION = ("q_proj", "k_proj", "v_proj")


def _linears(backbone: Any) -> Mapping[str, tuple[int, int]]:
    """Name of linear layers of one layer -> (in, out); those of attention alone where no other names are known."""
    try:
        return dict(backbone.named_linears())
    except SpecError:
        found = list(backbone.linears().get("qkv", ()))
        return dict(zip(ATTENTION, found, strict=True)) if len(found) == len(ATTENTION) else {}
