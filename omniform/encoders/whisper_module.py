"""Module of `encoders.whisper`: transformers' encoder."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from omniform.batch import Features
from omniform.encoders.audio_module import AudioModule, log_mel
from omniform.encoders.whisper import Whisper

ATTENTION: dict[str, Any] = {"attn_implementation": "sdpa"}


class WhisperModule(AudioModule):
    """Spectrogram (views, mels, columns) -> (views, positions, width), after the final norm."""

    def __init__(self, spec: Whisper) -> None:
        super().__init__(spec)
        config = WhisperConfig(**spec.config(), **ATTENTION)
        self.model: Any = WhisperEncoder(config)

    def normalise(self, waves: Float[Tensor, "views 1 samples"]) -> Float[Tensor, "views mels columns"]:
        heard = waves[:, 0].float()
        if self.spec.padded:
            heard = F.pad(heard, (0, self.spec.window - heard.shape[1]))
        return log_mel(heard, self.spec.mels, self.spec.rate).to(self.dtype())

    def forward(self, heard: Float[Tensor, "views mels columns"]) -> Features:
        model = self.model
        x = F.gelu(model.conv2(F.gelu(model.conv1(heard)))).transpose(1, 2)
        x = x + model.embed_positions.weight[: x.shape[1]]
        for layer in model.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x  # transformers' older layers give a tuple
        return Features(model.layer_norm(x), (x.shape[1],))

    def idle(self) -> tuple[str, ...]:
        return ("model.embed_positions.",)

    def layer_prefix(self) -> str:
        return "model.layers."
