"""Retrieved: a medium is made of the condition, or found among known ones (GILL, arXiv:2305.17216 section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from omniform.decoders.regressed import NOISE, Regressed
from omniform.geometry import SpecError
from omniform.parts import Shrunk


@dataclass(frozen=True, kw_only=True)
class Retrieved(Regressed):
    """What the signal's first token says and what an input's encoder sees meet in one space.

    In each batch every medium is told from the others both ways (kohjingyu/gill@4600b71 main.py:498-524). Once known
    media are given (`remember`), a classifier on the first token's hidden state chooses between making and finding.

    Attributes:
        among: input whose encoder sees the media.
        shared: width of the space.
        contrast: weight of telling media apart.
    """

    implementation = "omniform.decoders.retrieved_module:RetrievedModule"

    among: str = "image"
    shared: int = 256
    contrast: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if NOISE in self.losses:
            raise SpecError(
                f"loss {NOISE!r} and the encoder of {self.among} see a medium differently; keep one of them"
            )

    @property
    def looks(self) -> str:
        return self.among

    def widths(self, dim: int, inputs: Mapping[str, Any]) -> dict[str, int]:
        return {"dim": dim, "seen": inputs[self.among].encoder.dim}

    def num_params(self, dim: int, seen: int = 0) -> int:
        return super().num_params(dim) + (dim + 1 + seen + 1) * self.shared + 1

    def shrunk(self, size: Shrunk) -> Self:
        return super().shrunk(size).but(shared=12 if size == "tiny" else 64)
