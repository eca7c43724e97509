"""Neighbouring frames of a sound side by side, then two linear layers (SLAM-ASR, arXiv:2402.08846 section 3.1).

X-LANCE/SLAM-LLM@a68e78f src/slam_llm/models/projector.py (`EncoderProjectorConcat`); LLaMA-Omni, arXiv:2409.06666
section 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.geometry import Grid, SpecError, flat_rows
from omniform.parts import Connector, Shrunk


@dataclass(frozen=True, kw_only=True)
class StackedMlp(Connector):
    """`fold` cells become one of `fold` times the width, then linear, ReLU, linear; cells left over are dropped.

    Attributes:
        hidden: width between the linear layers.
    """

    implementation = "omniform.connectors.stacked_mlp_module:StackedMlpModule"

    fold: int = 5
    hidden: int = 2048

    def __post_init__(self) -> None:
        if min(self.fold, self.hidden) < 1:
            raise SpecError(f"fold {self.fold}, hidden {self.hidden}: give at least 1 cell and 1 channel")

    @property
    def title(self) -> str:
        return "MLP"

    def cells(self, grid: Grid) -> Grid:
        return (flat_rows(grid) // self.fold,)

    def num_params(self, in_dim: int, out_dim: int) -> int:
        return (self.fold * in_dim + 1) * self.hidden + (self.hidden + 1) * out_dim

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(hidden=24 if size == "tiny" else 128)
