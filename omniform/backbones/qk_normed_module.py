"""Module of `backbones.qk_normed`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

from omniform import attention
from omniform.backbones.decoder import Decoder
from omniform.backbones.decoder_module import DecoderModule
from omniform.frozen import FrozenMap

SMALLEST: Mapping[str, Any] = FrozenMap(
    base_channels=32, channel_multiplier=[1], num_res_blocks=1, latent_channels=1, embed_dim=1, num_embeddings=1,
    resolution=1,
)  # fmt: skip
"""Sizes of the codec that the class brings, and that is taken off."""


class QkNormedModule(DecoderModule):
    """The language model of transformers' class, without its codec, and with all logits: it masks those of codes."""

    def language_model(self, spec: Decoder) -> nn.Module:
        config = ChameleonConfig(**self.arguments(spec), vq_config=dict(SMALLEST), vocabulary_map={})
        config._attn_implementation = attention.NAME
        lm: Any = ChameleonForConditionalGeneration(config)
        del lm.model.vqmodel
        return lm
