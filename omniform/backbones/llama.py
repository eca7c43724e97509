"""LLaMA and what shares its architecture: Vicuna, LLaMA-2, LLaMA-3, Yi, InternLM, TinyLlama, SmolLM2 (arXiv:2302.13971)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.backbones.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Llama(Decoder):
    """RMSNorm, rotary positions, gated MLP, no biases."""

    abstract = False
    model_type = "llama"


LLAMA_7B = Llama(
    name="LLaMA", dim=4096, layers=32, heads=32, kv_heads=32, mlp_dim=11008, vocab=32000, context=2048, norm_eps=1e-6
)
LLAMA_13B = LLAMA_7B.but(dim=5120, layers=40, heads=40, kv_heads=40, mlp_dim=13824)
VICUNA_7B = LLAMA_7B.but(name="Vicuna 1.5", context=4096, norm_eps=1e-5)
VICUNA_13B = LLAMA_13B.but(name="Vicuna 1.5", context=4096, norm_eps=1e-5)
