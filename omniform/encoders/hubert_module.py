"""Module of `encoders.hubert`: transformers' models."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModel

from omniform.batch import Features
from omniform.encoders.audio_module import AudioModule
from omniform.encoders.hubert import Hubert


class HubertModule(AudioModule):
    """Waveforms (views, samples) of mean 0 and variance 1 -> (views, cells, width), after the final norm."""

    def __init__(self, spec: Hubert) -> None:
        super().__init__(spec)
        self.model: Any = AutoModel.from_config(AutoConfig.for_model(spec.family, **spec.config()))

    def normalise(self, waves: Float[Tensor, "views 1 samples"]) -> Float[Tensor, "views samples"]:
        heard = waves[:, 0].float()
        return F.layer_norm(heard, heard.shape[1:]).to(self.dtype())

    def forward(self, heard: Float[Tensor, "views samples"]) -> Features:
        x = self.model(heard).last_hidden_state
        return Features(x, (x.shape[1],))

    def layer_prefix(self) -> str:
        return "model.encoder.layers."
