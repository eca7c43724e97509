"""Several encoders that hear the same windows; what to do with their features is the connector's matter."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.encoders.audio import AudioEncoder
from omniform.encoders.joined import Joined
from omniform.geometry import Grid, Hw, SpecError


@dataclass(frozen=True, kw_only=True)
class SeveralAudio(Joined, AudioEncoder):
    """Windows have the length that all members hear; each member makes of the waveform what it reads.

    Attributes:
        members: two or more encoders of one rate.
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
    def window(self) -> int:
        return min(member.window for member in self.members)

    def grids(self, size: Hw) -> tuple[Grid, ...]:
        self.heard(size)
        return tuple(member.cells(size) for member in self.members)

    def flops(self, size: Hw) -> int:
        return sum(member.flops(size) for member in self.members)
