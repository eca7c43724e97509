"""LLaMA's layers with queries and keys normed, head by head, and optionally norms behind the sub-layers.

arXiv:2405.09818 section 2.3. transformers knows the family by the one model that has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omniform.backbones.decoder import KEYS, SILU, Decoder
from omniform.frozen import FrozenMap


@dataclass(frozen=True, kw_only=True)
class QkNormed(Decoder):
    """RMSNorm, rotary positions, gated MLP; a LayerNorm on every head of queries and keys, before the rotation.

    Attributes:
        norm_after: whether a sub-layer's output is normed instead of its input (arXiv:2111.09883 section 3.2).
    """

    abstract = False
    implementation = "omniform.backbones.qk_normed_module:QkNormedModule"
    model_type = "chameleon"
    keys = FrozenMap(KEYS, norm_after="swin_norm")
    fixed = FrozenMap(SILU, mlp_bias=False, attention_bias=False)
    assumed = FrozenMap(dim=4096, layers=32, heads=32, mlp_dim=11008, vocab=65536, context=4096)

    norm_after: bool = False

    def layer_params(self) -> int:
        return super().layer_params() + 2 * (self.heads + self.kv_heads) * self.per_head

    def config(self) -> dict[str, Any]:
        return {**super().config(), "swin_norm": self.norm_after}


CHAMELEON_7B = QkNormed(
    name="Chameleon", dim=4096, layers=32, heads=32, kv_heads=32, mlp_dim=11008, vocab=65536, context=4096
)
CHAMELEON_34B = CHAMELEON_7B.but(dim=8192, layers=48, heads=64, kv_heads=8, mlp_dim=22016, norm_after=True)
