"""Modules of `encoders.clip` and `encoders.siglip`: transformers' towers, run up to the chosen layer."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from omniform.batch import Features
from omniform.encoders.image_module import ImageEncoder
from omniform.encoders.vit import Vit

ATTENTION: dict[str, Any] = {"attn_implementation": "sdpa"}


class VitModule(ImageEncoder):
    """(views, 3, image, image) -> features of one hidden layer, without class token and final norm."""

    def __init__(self, spec: Vit, model: Any) -> None:
        super().__init__(spec)
        if not spec.post_norm:
            model.post_layernorm = nn.Identity()
        self.model = model
        self.spec = spec

    def embed(self, pixels: Tensor) -> Tensor:
        return self.model.embeddings(pixels)

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        x = self.embed(pixels)
        for layer in self.model.encoder.layers[: self.spec.run_layers]:
            x = layer(x, attention_mask=None)
        skipped = int(self.spec.class_token) + int(self.spec.drop_first)
        return Features(x[:, skipped:], self.spec.cells((pixels.shape[2], pixels.shape[3])))

    def idle(self) -> tuple[str, ...]:
        unrun = range(self.spec.run_layers, self.spec.layers)
        return ("model.post_layernorm.", "model.head.", *(f"model.encoder.layers.{i}." for i in unrun))

    def layer_prefix(self) -> str:
        return "model.encoder.layers."


class ClipVitModule(VitModule):
    """CLIP: class token, and a norm before the first layer."""

    def __init__(self, spec: Vit) -> None:
        super().__init__(spec, CLIPVisionModel(CLIPVisionConfig(**spec.config(), **ATTENTION)))

    def embed(self, pixels: Tensor) -> Tensor:
        return self.model.pre_layrnorm(self.model.embeddings(pixels))


class PooledClipVitModule(ClipVitModule):
    """CLIP: the class token alone, normed."""

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        x = self.embed(pixels)
        for layer in self.model.encoder.layers:
            x = layer(x, attention_mask=None)
        return Features(self.model.post_layernorm(x[:, :1]), (1,))

    def idle(self) -> tuple[str, ...]:
        return ()


class SigLipModule(VitModule):
    """SigLIP: patches only."""

    def __init__(self, spec: Vit) -> None:
        super().__init__(spec, SiglipVisionModel(SiglipVisionConfig(**spec.config(), **ATTENTION)))


def stretched_positions(table: Float[Tensor, "old dim"], new: int) -> Float[Tensor, "{new} dim"]:
    """A table of position embeddings for more patches, as VILA enlarges it before training at a higher resolution.

    Rows are interpolated along the flattened index, not over the map; a new row that falls exactly on an old one (at
    least the first and the last) becomes zero (NVlabs/VILA@b760c34 llava/model/multimodal_encoder/vision_encoder.py
    :68-105).
    """
    at = torch.arange(new, device=table.device) / (new - 1) * (len(table) - 1)
    below, above = at.floor(), at.ceil()
    return (at - below)[:, None] * table[above.long()] + (above - at)[:, None] * table[below.long()]
