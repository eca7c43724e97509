"""Weights of their own for media in every layer of the backbone (CogVLM, arXiv:2311.03079 section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.geometry import SpecError
from omniform.parts import Backbone, Fusion


@dataclass(frozen=True, kw_only=True)
class VisualExpert(Fusion):
    """Rows take positions, and pass twins of the linear modules of every layer; norms and attention are shared.

    Attributes:
        end_is_text: whether the last row of each medium (a sign for its end) passes the language's own modules
            (THUDM/CogVLM@f7283b2 utils/utils/language.py: the mask leaves the last of them out).
        qkv_bias: whether the twins of queries, keys and values have biases where the language's have none (CogVLM2).
    """

    implementation = "omniform.fusion.visual_expert_module:VisualExpertModule"
    copies = True

    end_is_text: bool = True
    qkv_bias: bool = False

    def check(self, backbone: Backbone) -> None:
        if backbone.memory != "keys":
            raise SpecError(f"a visual expert hangs on attention, which {type(backbone).__name__} has none of")
        backbone.twin_params(self.qkv_bias)

    def num_params(self, backbone: Backbone, width: int) -> int:
        return backbone.layers * sum(backbone.twin_params(self.qkv_bias))

    def learnable_params(self, backbone: Backbone, width: int) -> int:
        """Of the last layer, words see the media's keys and values only."""
        _, unseen = backbone.twin_params(self.qkv_bias)
        return self.num_params(backbone, width) - unseen * self.end_is_text
