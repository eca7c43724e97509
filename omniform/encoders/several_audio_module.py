"""Module of `encoders.several_audio`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from omniform.encoders.joined_module import JoinedModule


class SeveralAudioModule(JoinedModule):
    """Waveforms -> what each member reads -> features of each member."""

    def normalise(self, waves: Float[Tensor, "views 1 samples"]) -> tuple[Tensor, ...]:
        return tuple(member.normalise(waves) for member in self.members)
