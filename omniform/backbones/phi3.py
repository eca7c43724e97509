"""Phi-3 mini (arXiv:2404.14219): LLaMA with fused linear layers and, in the 4k release, a sliding window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from omniform.backbones.decoder import FIRST_CONTEXT, KEYS, SILU, Decoder, Linears
from omniform.frozen import FrozenMap
from omniform.parts import Shrunk


@dataclass(frozen=True, kw_only=True)
class Phi3(Decoder):
    """LLaMA whose queries, keys and values are one linear layer, and whose gate and up projection are another.

    Under "longrope" scaling the frequencies of a whole packed sequence follow its longest document: documents longer
    and shorter than `first_context` do not belong in one batch.

    Attributes:
        window: positions seen, the own one included; None sees all.
        first_context: positions before the context was extended; longer documents use the long factors of
            `rope_scaling`.
    """

    abstract = False
    model_type = "phi3"
    keys = FrozenMap(KEYS, window="sliding_window", first_context=FIRST_CONTEXT)
    fixed = FrozenMap(SILU, resid_pdrop=0.0, embd_pdrop=0.0)
    assumed = FrozenMap(dim=3072, layers=32, heads=32, mlp_dim=8192, vocab=32064, context=4096)

    window: int | None = None
    first_context: int = 4096

    def linears(self) -> Linears:
        qkv = (self.heads + 2 * self.kv_heads) * self.per_head
        mlp = [(self.dim, 2 * self.mlp_dim), (self.mlp_dim, self.dim)]
        return {"qkv": [(self.dim, qkv)], "out": [(self.heads * self.per_head, self.dim)], "mlp": mlp}

    def shrunk(self, size: Shrunk) -> Self:
        small = super().shrunk(size)
        first = self.first_context * small.context // self.context
        return small.but(window=self.window and self.window * small.context // self.context, first_context=first)

    def rope(self) -> dict[str, Any]:
        scaled = {FIRST_CONTEXT: self.first_context} if self.rope_scaling else {}
        return {**super().rope(), **scaled}


PHI_3_MINI_4K = Phi3(
    name="Phi-3", dim=3072, layers=32, heads=32, kv_heads=32, mlp_dim=8192, vocab=32064, context=4096, window=2047
)
PHI_3_MINI = PHI_3_MINI_4K.but(context=131072, window=None)
"""Sizes of the 128k release; its 48 short and 48 long rotary factors come from its config.json (`from_config`)."""
