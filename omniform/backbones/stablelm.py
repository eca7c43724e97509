"""StableLM-2 (arXiv:2402.17834): LLaMA with LayerNorm, biases on queries, keys and values, a quarter of rotation."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.backbones.decoder import KEYS, SILU, Decoder
from omniform.frozen import FrozenMap


@dataclass(frozen=True, kw_only=True)
class StableLm(Decoder):
    """LayerNorm, gated MLP, rotary positions on a part of each head.

    Attributes:
        qkv_bias: whether queries, keys and values have biases.
    """

    abstract = False
    implementation = "omniform.backbones.stablelm_module:StableLmModule"
    model_type = "stablelm"
    keys = FrozenMap(KEYS, norm_eps="layer_norm_eps", qkv_bias="use_qkv_bias")
    fixed = FrozenMap(SILU, qk_layernorm=False, use_parallel_residual=False)
    assumed = FrozenMap(dim=2560, layers=32, heads=32, kv_heads=32, mlp_dim=6912, vocab=50304, context=4096)
    norm_params = 2

    rotary: float = 0.25
    qkv_bias: bool = False

    @property
    def biases(self) -> frozenset[str]:
        return frozenset({"qkv"}) if self.qkv_bias else frozenset()


STABLELM_2_1_6B = StableLm(
    name="StableLM-2", dim=2048, layers=24, heads=32, kv_heads=32, mlp_dim=5632, vocab=100352, context=4096,
    qkv_bias=True,
)  # fmt: skip
