"""Units of speech told along with a text, not after it (LLaMA-Omni, arXiv:2409.06666 section 2.4).

ictnlp/LLaMA-Omni@c63fd72 omni_speech/model/speech_generator/{speech_generator,generation}.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.geometry import SpecError
from omniform.outputs import ToldAlong
from omniform.parts import Backbone, Shrunk


@dataclass(frozen=True, kw_only=True)
class CtcUnits(ToldAlong):
    """Hidden states of an answer's tokens, each `copies` times, go through a few causal layers to units or blanks.

    Trained by CTC (Graves et al. 2006), which sums over all ways to spread the units over the copies. Nothing of it
    enters the sequence: what is said so far follows from the tokens so far, and never changes as more come.

    Attributes:
        trunk: a language model whose layers alone are used; embedding, final norm and head are not there.
        copies: of each hidden state.
    """

    implementation = "omniform.decoders.ctc_units_module:CtcUnitsModule"

    trunk: Backbone
    copies: int = 25
    piece: int = 40

    def __post_init__(self) -> None:
        if self.codec.books != 1:
            raise SpecError(
                f"CtcUnits tells one code after another, but {self.codec.title} has {self.codec.books} books"
            )
        if min(self.copies, self.piece) < 1:
            raise SpecError(f"copies {self.copies}, piece {self.piece}: give at least 1 each")

    @property
    def title(self) -> str:
        return self.codec.writer

    @property
    def blank(self) -> int:
        """Number of the symbol that is no unit."""
        return self.codec.codebook

    def num_params(self, dim: int) -> int:
        layers = self.trunk.num_params() - self.trunk.but(layers=0).num_params()
        width = self.trunk.dim
        return (dim + 1) * width + layers + (width + 1) * (self.blank + 1)

    def flops(self, dim: int, tokens: int) -> int:
        cells, width = tokens * self.copies, self.trunk.dim
        inside = cells * self.trunk.flops_per_position() + self.trunk.attention_flops(cells, cells)
        return 2 * cells * width * (dim + self.blank + 1) + inside

    def shrunk(self, size: Shrunk) -> Self:
        codec, views = self.codec.shrunk(size), self.views.shrunk(size)
        return self.but(codec=codec, views=views, trunk=self.trunk.shrunk(size), piece=4)
