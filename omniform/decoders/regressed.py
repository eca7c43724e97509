"""Regressed: hidden states of the backbone become the condition of a diffusion model.

The form of arXiv:2305.17216 section 3.2 (kohjingyu/gill@4600b71 gill/models.py:321-520), and, with other choices, of
NExT-GPT/NExT-GPT@60d618b, eric-ai-lab/MiniGPT-5@915ab17 and RunpeiDong/DreamLLM@9dc7677.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from omniform.frozen import FrozenMap
from omniform.geometry import SpecError
from omniform.index import unknown
from omniform.parts import Connector, OutputDecoder, Shrunk, Views
from omniform.writing import Diffusion

MATCHES = ("distance", "squares", "cosine")
"""Losses between the condition given and the one that the caption would give."""
NOISE = "noise"
"""The loss of diffusion under the condition given."""


@dataclass(frozen=True, kw_only=True)
class Regressed(OutputDecoder):
    """Signal tokens stand for a medium; a head reads the hidden states there and gives the condition of its making.

    Where the head gives fewer positions than the diffusion model reads, zeros follow them.

    Attributes:
        tokens: the signal: special tokens of the backbone's vocabulary that follow one another.
        learned: leading ones that text learns to say; None is all. The others are put behind them.
        taken: whether hidden states are taken at the signal's tokens, or where each is predicted from.
        embedded: whether the tokens' input embeddings are added to their hidden states.
        head: (media, tokens, dim) -> (media, positions, width of the condition).
        losses: name -> weight. "distance": Euclidean distance between the condition's vectors and those that the
            caption would give; "squares": mean squared error; "cosine": one minus the cosine; "noise": diffusion's own
            loss, through the diffusion model.
        diffusion: what the condition is for.
        dropped: share of media whose condition gives way to that of no words while the diffusion model learns, which
            guidance leads away from (arXiv:2207.12598 section 3.2).
        views: how a medium becomes what "noise" sees.
        rendered: whether the diffusion model is built; without it the condition is all that comes out.
    """

    form = "continuous"
    implementation = "omniform.decoders.regressed_module:RegressedModule"

    tokens: tuple[str, ...]
    learned: int | None = None
    taken: Literal["at", "before"] = "at"
    embedded: bool = False
    head: Connector
    losses: Mapping[str, float] = FrozenMap(distance=1.0)
    diffusion: Diffusion
    dropped: float = 0.0
    views: Views | None = None
    rendered: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "losses", FrozenMap(self.losses))
        if not self.tokens or not 1 <= self.said <= len(self.tokens):
            raise SpecError(f"text learns {self.said} of the {len(self.tokens)} tokens of a signal; name more, or less")
        for name in self.losses:
            if name not in (*MATCHES, NOISE):
                raise unknown("loss of a condition", name, (*MATCHES, NOISE))
        if NOISE in self.losses and self.views is None:
            raise SpecError(f"loss {NOISE!r} sees the medium: say how it becomes a picture of one size (views)")
        matched = [name for name in self.losses if name in MATCHES]
        if matched and not self.diffusion.words:
            raise SpecError(
                f"losses {', '.join(matched)} compare with the condition of a caption, but {self.diffusion.title} "
                f"reads no words; use {NOISE!r}"
            )
        if not 0 <= self.dropped < 1:
            raise SpecError(f"dropped {self.dropped} is no share of media; give at least 0 and less than 1")
        if self.given > self.diffusion.positions:
            raise SpecError(
                f"{type(self.head).__name__} gives {self.given} positions, but {self.diffusion.title} reads "
                f"{self.diffusion.positions}; give as many, or fewer"
            )

    @property
    def title(self) -> str:
        return self.diffusion.title

    @property
    def given(self) -> int:
        """Positions that the head gives."""
        return self.head.cells((len(self.tokens),))[0]

    @property
    def signal(self) -> tuple[str, ...]:
        return self.tokens

    @property
    def said(self) -> int:
        return len(self.tokens) if self.learned is None else self.learned

    @property
    def aims(self) -> Views | None:
        return self.views if NOISE in self.losses else None

    @property
    def generator(self) -> Diffusion | None:
        return self.diffusion if self.rendered else None

    def num_params(self, dim: int) -> int:
        return self.head.num_params(dim, self.diffusion.width)

    def shrunk(self, size: Shrunk) -> Self:
        diffusion = self.diffusion.shrunk(size)
        views = self.views and self.views.shrunk(size).rescaled(self.diffusion.size[0], diffusion.size[0])
        return self.but(head=self.head.shrunk(size), diffusion=diffusion, views=views)
