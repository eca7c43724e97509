"""Gemma (arXiv:2403.08295): embeddings scaled by the root of the width, norms that scale by one plus their weight."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.backbones.decoder import KEYS, Decoder
from omniform.frozen import FrozenMap


@dataclass(frozen=True, kw_only=True)
class Gemma(Decoder):
    """LLaMA with GELU gates and scaled input.

    Every row that enters is scaled, text and media alike, as in the transformers that systems on Gemma were trained
    with (huggingface/transformers@v4.38.0 modeling_gemma.py `GemmaModel.forward`); later ones scale only text.
    """

    abstract = False
    implementation = "omniform.backbones.gemma_module:GemmaModule"
    model_type = "gemma"
    keys = FrozenMap(KEYS, head_dim="head_dim")
    # released files say "gelu" or "gelu_pytorch_tanh" and mean the latter, which is what transformers assumes
    fixed = FrozenMap()
    assumed = FrozenMap(
        dim=3072, layers=28, heads=16, kv_heads=16, mlp_dim=24576, vocab=256000, context=8192, head_dim=256
    )

    norm_eps: float = 1e-6
    tied: bool = True


GEMMA_2B = Gemma(name="Gemma", dim=2048, layers=18, heads=8, kv_heads=1, mlp_dim=16384, vocab=256000, context=8192)
