"""Qwen (arXiv:2309.16609), the first of its name: LLaMA with one linear layer for queries, keys and values, biased.

Sizes are those of Qwen/Qwen-1_8B's config.json, where `intermediate_size` is that of both branches of the MLP. What the
release does beyond 2048 positions at inference (dynamic rotary base, log-n attention; QwenLM/Qwen modeling_qwen.py) is
not reproduced. In its names `w2` is the gate, `w1` what is gated.
"""

from __future__ import annotations

from dataclasses import dataclass

from omniform.backbones.decoder import Linears
from omniform.backbones.qwen2 import Qwen2


@dataclass(frozen=True, kw_only=True)
class Qwen(Qwen2):
    """Qwen2 without shared key-value heads, its first three projections in one."""

    implementation = "omniform.backbones.qwen_module:QwenModule"

    def linears(self) -> Linears:
        return {**super().linears(), "qkv": [(self.dim, 3 * self.heads * self.per_head)]}


QWEN_7B = Qwen(name="Qwen", dim=4096, layers=32, heads=32, kv_heads=32, mlp_dim=11008, vocab=151936, context=8192)
QWEN_1_8B = QWEN_7B.but(dim=2048, layers=24, heads=16, kv_heads=16, mlp_dim=5504)
