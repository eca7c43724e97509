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
    """

    implementation = "omniform.fusion.visual_expert_module:VisualExpertModule"

    end_is_text: bool = True

    def check(self, backbone: Backbone) -> None:
        if backbone.memory != "keys":
            raise SpecError(f"a visual expert hangs on attention, which {type(backbone).__name__} has none of")

    def num_params(self, backbone: Backbone, width: int) -> int:
        return backbone.layers * backbone.layer_linear_params()
