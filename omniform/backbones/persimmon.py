"""Persimmon 8B (adept.ai/blog/persimmon-8b): squared ReLU, normed queries and keys, half of each head rotated."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.backbones.decoder import KEYS, Decoder, Linears
from omniform.frozen import FrozenMap


@dataclass(frozen=True, kw_only=True)
class Persimmon(Decoder):
    """LayerNorm, plain MLP, biases everywhere but in the head; queries and keys pass a LayerNorm of their own."""

    abstract = False
    model_type = "persimmon"
    keys = FrozenMap({f: k for f, k in KEYS.items() if f != "kv_heads"}, norm_eps="layer_norm_eps")
    fixed = FrozenMap(hidden_act="relu2", qk_layernorm=True, hidden_dropout=0.0)
    assumed = FrozenMap(dim=4096, layers=36, heads=64, mlp_dim=16384, vocab=262144, context=16384)
    gated_mlp = False
    norm_params = 2

    rotary: float = 0.5

    @property
    def biases(self) -> frozenset[str]:
        return frozenset({"qkv", "out", "mlp"})

    def linears(self) -> Linears:
        return {**super().linears(), "qkv": [(self.dim, 3 * self.dim)]}

    def layer_params(self) -> int:
        return super().layer_params() + 2 * self.norm_params * self.per_head


PERSIMMON_8B = Persimmon(
    name="Persimmon", dim=4096, layers=36, heads=64, kv_heads=64, mlp_dim=16384, vocab=262144, context=16384,
    rope_theta=25000.0,
)  # fmt: skip
