"""What declarations share that join several encoders of the same media."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from omniform.geometry import Grid, Hw
from omniform.parts import Encoder, Shrunk


@dataclass(frozen=True, kw_only=True)
class Joined(Encoder):
    """Each member gives features of its own; sizes and costs are the members' together.

    Attributes:
        members: two or more encoders, in the order in which the connector takes their features.
    """

    abstract: ClassVar[bool] = True

    members: tuple[Any, ...]

    @property
    def title(self) -> str:
        return " + ".join(dict.fromkeys(member.title for member in self.members))

    @property
    def dim(self) -> int:
        """Width of the first member's features."""
        return self.dims[0]

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(member.dim for member in self.members)

    def cells(self, size: Hw) -> Grid:
        return self.grids(size)[0]

    def num_params(self) -> int:
        return sum(member.num_params() for member in self.members)

    def learnable_params(self, first_layer: int = 0) -> int:
        if first_layer:
            return super().learnable_params(first_layer)  # refuses
        return sum(member.learnable_params() for member in self.members)

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(members=tuple(member.shrunk(size) for member in self.members))
