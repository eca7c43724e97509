"""The contract of experts: what stands where some layers of a backbone have their MLP. Data and costs, never torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from omniform.frozen import FrozenMap
from omniform.parts import Part


@dataclass(frozen=True, kw_only=True)
class Experts(Part):
    """What stands where some layers of a backbone have their MLP: several of them, and a router.

    The first expert is the backbone's own MLP. Costs are told for one layer, beyond that MLP.
    """

    @property
    def trees(self) -> bool:
        """Whether documents may share trunks: no position's experts depend on the positions after it."""
        return True

    @property
    def trees_in_training(self) -> bool:
        return self.trees

    @property
    def losses(self) -> Mapping[str, float]:
        """Name of each further loss -> its factor in the sum."""
        return FrozenMap()

    def layers(self, count: int) -> tuple[int, ...]:
        """Numbers of the layers with experts, of `count` layers."""
        raise NotImplementedError

    def further_params(self, dim: int, mlp_params: int) -> int:
        """Parameters beside the first expert, which has `mlp_params`."""
        raise NotImplementedError

    def further_weights(self, dim: int, mlp_weights: int) -> int:
        """Weights that a position is multiplied with, beside those of one expert."""
        raise NotImplementedError

    def idle_params(self, mlp_params: int) -> int:
        """Parameters that one position does not pass through."""
        raise NotImplementedError

    @property
    def passed(self) -> int:
        """Experts that one position passes through."""
        raise NotImplementedError

    def further_linears(self, dim: int, mlp: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """(in, out) of the linear modules beside the first expert's, which are `mlp`."""
        raise NotImplementedError
