"""Several encoders that look at the same views; what to do with their features is the connector's matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from omniform.encoders.joined import Joined
from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Encoder


@dataclass(frozen=True, kw_only=True)
class Several(Joined):
    """Views have the largest member's size; members of smaller views see them resampled without antialias.

    Each member normalises by its own mean and standard deviation; a system that feeds one member the other's says so
    (`DINOV2_L.but(mean=..., std=...)`). Padding takes the first member's mean colour.

    Attributes:
        down: interpolation to smaller members' views.
    """

    implementation = "omniform.encoders.several_module:SeveralModule"

    members: tuple[Encoder, ...]
    down: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise SpecError(f"Several joins two or more encoders, got {len(self.members)}")
        for name in ("mean", "std", "resample"):
            object.__setattr__(self, name, getattr(self.members[0], name))

    @property
    def size(self) -> Hw:
        return max(member.size for member in self.members)

    def grids(self, size: Hw) -> tuple[Grid, ...]:
        if size != self.size:
            raise SpecError(f"Several reads {self.size} views, got {size}; use views that keep its size")
        return tuple(member.cells(member.size) for member in self.members)

    def flops(self, size: Hw) -> int:
        return sum(member.flops(member.size) for member in self.members)
