"""Module of `encoders.whisper`: transformers' encoder."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from omniform.batch import Features
from omniform.encoders.audio_module import AudioModule, log_mel
from omniform.encoders.whisper import Whisper

ATTENTION: dict[str, Any] = {"attn_implementation": "sdpa"}


class Heard(NamedTuple):
    """Spectrograms of sounds of one length, silence behind them, and the rows of the sounds alone, not pooled yet."""

    spectrogram: Float[Tensor, "views mels columns"]
    rows: int


class WhisperModule(AudioModule):
    """Spectrogram (views, mels, columns) -> (views, rows, width), after the final norm."""

    def __init__(self, spec: Whisper) -> None:
        super().__init__(spec)
        config = WhisperConfig(**spec.config(), **ATTENTION)
        self.model: Any = WhisperEncoder(config)

    def normalise(self, waves: Float[Tensor, "views 1 samples"]) -> Tensor | Heard:
        heard = waves[:, 0].float()
        if self.spec.padded:
            heard = F.pad(heard, (0, self.spec.window - heard.shape[1]))
        spectrogram = log_mel(heard, self.spec.mels, self.spec.rate).to(self.dtype())
        rows = self.spec.frames((1, waves.shape[-1]))
        if self.spec.rows == "cut":
            spectrogram = spectrogram[..., : 2 * rows]
        return spectrogram if self.spec.rows == "all" else Heard(spectrogram, rows)

    def forward(self, heard: Float[Tensor, "views mels columns"] | Heard) -> Features:
        model = self.model
        columns, rows = heard if isinstance(heard, Heard) else (heard, (heard.shape[-1] + 1) // 2)
        x = F.gelu(model.conv2(F.gelu(model.conv1(columns)))).transpose(1, 2)
        x = x + model.embed_positions.weight[: x.shape[1]]
        x = x[:, :rows] if self.spec.rows in ("attended", "cut") else x
        for layer in model.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x  # transformers' older layers give a tuple
        x = x[:, :rows]
        if self.spec.pool > 1:
            x = F.avg_pool1d(x.transpose(1, 2), self.spec.pool).transpose(1, 2)
        return Features(model.layer_norm(x), (x.shape[1],))

    def idle(self) -> tuple[str, ...]:
        return ("model.embed_positions.",)

    def layer_prefix(self) -> str:
        return "model.layers."
