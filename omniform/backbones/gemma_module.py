"""Module of `backbones.gemma`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache

from omniform.backbones.decoder_module import DecoderModule
from omniform.batch import Fused, Notes, Tree


class GemmaModule(DecoderModule):
    """Takes the scale out of transformers' embedding and applies it to every row that enters."""

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        return F.embedding(ids, self.lm.get_input_embeddings().weight)

    def forward(
        self,
        embeds: Float[Tensor, "n dim"],
        positions: Int[Tensor, "*axes n"],
        tree: Tree,
        cache: DynamicCache | None = None,
        fused: Fused | None = None,
        notes: Notes | None = None,
    ) -> Float[Tensor, "n dim"]:
        return super().forward(self._scaled(embeds), positions, tree, cache, fused, notes)

    def step(
        self,
        embeds: Float[Tensor, "rows new dim"],
        positions: Int[Tensor, "*axes rows new"],
        mask: Float[Tensor, "rows 1 new keys"] | None,
        cache: DynamicCache,
        fused: Fused | None = None,
    ) -> Float[Tensor, "rows new dim"]:
        return super().step(self._scaled(embeds), positions, mask, cache, fused)

    def _scaled(self, embeds: Tensor) -> Tensor:
        # rounded to the working precision first, as the original does
        return embeds * torch.tensor(self.spec.dim**0.5, dtype=embeds.dtype, device=embeds.device)
