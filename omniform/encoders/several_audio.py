"""Several encoders that hear the same windows; what to do with their features is the connector's matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.encoders.audio import AudioEncoder
from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Shrunk


@dataclass(frozen=True, kw_only=True)
class SeveralAudio(AudioEncoder):
    """Windows have the length that all members hear; each member makes of the waveform what it reads.

    Attributes:
        members: two or more encoders of one rate, in the order in which the connector takes their features.
    """

    abstract = False
    implementation = "omniform.encoders.several_audio_module:SeveralAudioModule"

    members: tuple[AudioEncoder, ...]

    def __post_init__(self) -> None:
        rates = tuple(member.rate for member in self.members)
        if len(rates) < 2 or len(set(rates)) > 1:
            raise SpecError(f"SeveralAudio joins two or more encoders of one rate, got rates {rates}")
        object.__setattr__(self, "rate", rates[0])

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

    @property
    def window(self) -> int:
        return min(member.window for member in self.members)

    def cells(self, size: Hw) -> Grid:
        return self.grids(size)[0]

    def grids(self, size: Hw) -> tuple[Grid, ...]:
        self.heard(size)
        return tuple(member.cells(size) for member in self.members)

    def num_params(self) -> int:
        return sum(member.num_params() for member in self.members)

    def learnable_params(self, first_layer: int = 0) -> int:
        if first_layer:
            return super().learnable_params(first_layer)  # refuses
        return sum(member.learnable_params() for member in self.members)

    def flops(self, size: Hw) -> int:
        return sum(member.flops(size) for member in self.members)

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(members=tuple(member.shrunk(size) for member in self.members))
