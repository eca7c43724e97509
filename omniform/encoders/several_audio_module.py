"""Module of `encoders.several_audio`."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.several_audio import SeveralAudio


class SeveralAudioModule(nn.Module):
    """Waveforms -> what each member reads -> features of each member."""

    def __init__(self, spec: SeveralAudio) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(member.build() for member in spec.members)

    def normalise(self, waves: Float[Tensor, "views 1 samples"]) -> tuple[Tensor, ...]:
        return tuple(member.normalise(waves) for member in self.members)

    def forward(self, heard: tuple[Tensor, ...]) -> tuple[Features, ...]:
        return tuple(member(own) for member, own in zip(self.members, heard, strict=True))

    def idle(self) -> tuple[str, ...]:
        return tuple(f"members.{i}.{prefix}" for i, member in enumerate(self.members) for prefix in member.idle())

    def layer_prefix(self) -> str:
        raise ValueError("SeveralAudio has the numbered layers of each member, not of its own; train it whole")
