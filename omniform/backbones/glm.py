"""GLM-4 9B (arXiv:2406.12793): two key-value heads, biases on queries, keys and values, half of each head rotated."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.backbones.decoder import KEYS, SILU, Decoder, Linears
from omniform.frozen import FrozenMap


@dataclass(frozen=True, kw_only=True)
class Glm(Decoder):
    """RMSNorm, gated MLP with gate and up projection in one linear layer; neighbouring channels rotate together."""

    abstract = False
    model_type = "glm"
    keys = FrozenMap(KEYS, head_dim="head_dim", qkv_bias="attention_bias")
    fixed = SILU
    assumed = FrozenMap(
        dim=4096, layers=40, heads=32, kv_heads=2, mlp_dim=13696, vocab=151552, context=131072, head_dim=128
    )

    norm_eps: float = 1.5625e-7
    rotary: float = 0.5
    qkv_bias: bool = True

    @property
    def biases(self) -> frozenset[str]:
        return frozenset({"qkv"}) if self.qkv_bias else frozenset()

    def linears(self) -> Linears:
        return {**super().linears(), "mlp": [(self.dim, 2 * self.mlp_dim), (self.mlp_dim, self.dim)]}


GLM_4_9B = Glm(name="GLM-4", dim=4096, layers=40, heads=32, kv_heads=2, mlp_dim=13696, vocab=151552, context=8192)
