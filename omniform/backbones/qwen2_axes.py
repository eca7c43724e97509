"""Qwen2 with position ids of three axes (M-RoPE, arXiv:2409.12191 section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from omniform.backbones.qwen2 import QWEN2_1_5B, QWEN2_7B, QWEN2_72B, Qwen2
from omniform.geometry import SpecError
from omniform.parts import Shrunk

SECTIONS = "mrope_section"
"""Key of the sections in rotary parameters."""


@dataclass(frozen=True, kw_only=True)
class Qwen2Axes(Qwen2):
    """Each axis of the position ids turns a section of a head's channel pairs.

    Attributes:
        sections: pairs that turn by each axis: frame, row, column.
    """

    abstract = False
    implementation = "omniform.backbones.qwen2_axes_module:Qwen2AxesModule"

    position_axes = 3

    sections: tuple[int, ...] = (16, 24, 24)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.sections) != self.position_axes or 2 * sum(self.sections) != self.rotary_dim:
            raise SpecError(
                f"sections {self.sections} turn {2 * sum(self.sections)} channels, a head has {self.rotary_dim}; give "
                f"{self.position_axes} that make half of them together"
            )

    def small(self, size: Shrunk) -> dict[str, Any]:
        small = super().small(size)
        pairs, whole = small["dim"] // small["heads"] // 2, sum(self.sections)
        bounds = [0, *(-(-end * pairs // whole) for end in accumulate(self.sections))]
        return {**small, "sections": tuple(b - a for a, b in pairwise(bounds))}

    def rope(self) -> dict[str, Any]:
        return {**super().rope(), SECTIONS: list(self.sections)}

    @classmethod
    def _rope_fields(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        found = super()._rope_fields(config)
        scaling = dict(found["rope_scaling"])
        if scaling.get("rope_type") == "mrope":  # what first releases call it
            del scaling["rope_type"]
        sections = scaling.pop(SECTIONS, None)
        return {**found, "rope_scaling": scaling, **({"sections": tuple(sections)} if sections else {})}


def _with_axes(plain: Qwen2) -> Qwen2Axes:
    return Qwen2Axes(**vars(plain))


QWEN2_AXES_7B = _with_axes(QWEN2_7B)
QWEN2_AXES_72B = _with_axes(QWEN2_72B)
QWEN2_AXES_1_5B = _with_axes(QWEN2_1_5B)
