"""Mistral 7B (arXiv:2310.06825): grouped queries, and a sliding window in v0.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.backbones.decoder import KEYS, Decoder
from omniform.frozen import FrozenMap
from omniform.parts import Shrunk


@dataclass(frozen=True, kw_only=True)
class Mistral(Decoder):
    """LLaMA whose positions see only the last `window` positions.

    Attributes:
        window: positions seen, the own one included; None sees all.
    """

    abstract = False
    model_type = "mistral"
    keys = FrozenMap(KEYS, head_dim="head_dim", window="sliding_window")
    assumed = FrozenMap(
        dim=4096, layers=32, heads=32, kv_heads=8, mlp_dim=14336, vocab=32000, context=131072, window=4096
    )

    norm_eps: float = 1e-6
    window: int | None = None

    def shrunk(self, size: Shrunk) -> Self:
        small = super().shrunk(size)
        return small.but(window=self.window and self.window * small.context // self.context)


MISTRAL_7B_V01 = Mistral(
    name="Mistral-v0.1", dim=4096, layers=32, heads=32, kv_heads=8, mlp_dim=14336, vocab=32000, context=32768,
    norm_eps=1e-5, window=4096,
)  # fmt: skip
MISTRAL_7B_V02 = MISTRAL_7B_V01.but(name="Mistral", rope_theta=1000000.0, window=None)
