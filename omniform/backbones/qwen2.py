"""Qwen2 (arXiv:2407.10671) and Qwen1.5: LLaMA with biases on queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.backbones.decoder import SILU, Decoder
from omniform.frozen import FrozenMap


@dataclass(frozen=True, kw_only=True)
class Qwen2(Decoder):
    """LLaMA with biases on queries, keys and values."""

    abstract = False
    model_type = "qwen2"
    fixed = FrozenMap(SILU, use_sliding_window=False)
    assumed = FrozenMap(dim=4096, layers=32, heads=32, kv_heads=32, mlp_dim=22016, vocab=151936, context=32768)

    norm_eps: float = 1e-6

    @property
    def biases(self) -> frozenset[str]:
        return frozenset({"qkv"})


QWEN2_7B = Qwen2(
    name="Qwen-2", dim=3584, layers=28, heads=28, kv_heads=4, mlp_dim=18944, vocab=152064, context=32768,
    rope_theta=1000000.0,
)  # fmt: skip
QWEN2_72B = QWEN2_7B.but(dim=8192, layers=80, heads=64, kv_heads=8, mlp_dim=29568)
QWEN2_0_5B = QWEN2_7B.but(dim=896, layers=24, heads=14, kv_heads=2, mlp_dim=4864, vocab=151936, tied=True)
QWEN2_1_5B = QWEN2_0_5B.but(dim=1536, layers=28, heads=12, mlp_dim=8960)

QWEN1_5_7B = Qwen2(
    name="Qwen1.5", dim=4096, layers=32, heads=32, kv_heads=32, mlp_dim=11008, vocab=151936, context=32768,
    rope_theta=1000000.0,
)  # fmt: skip
QWEN1_5_1_8B = QWEN1_5_7B.but(dim=2048, layers=24, heads=16, kv_heads=16, mlp_dim=5504)
