"""Module of `encoders.imagebind_audio`."""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.audio_module import AudioModule, filter_banks
from omniform.encoders.imagebind_audio import ImageBindAudio
from omniform.encoders.imagebind_module import TowerModule

SCALE, LARGEST = 20.0, 100.0
"""Length of the embeddings before a checkpoint says it, and the largest that is allowed."""


class ImageBindAudioModule(TowerModule, AudioModule):
    """(views, 1, samples) -> one embedding a view."""

    log_scale: Tensor

    def __init__(self, spec: ImageBindAudio) -> None:
        super().__init__(spec)
        self.patches = nn.Conv2d(1, spec.width, spec.patch, stride=spec.stride, bias=False)
        self.stem_norm = nn.LayerNorm(spec.width)
        self._make(spec)
        self.register_buffer("log_scale", torch.tensor(log(SCALE)))

    def normalise(self, waves: Float[Tensor, "views 1 samples"]) -> Float[Tensor, "views 1 mels columns"]:
        return self.standard(self.spectrogram(waves)).to(self.dtype())

    def spectrogram(self, waves: Float[Tensor, "views 1 samples"]) -> Float[Tensor, "views 1 mels columns"]:
        """Filter banks of the waveforms without their means, cut to the columns that are read or filled with zeros."""
        centred = (waves - waves.mean(-1, keepdim=True))[:, 0].float()
        banks = filter_banks(centred, self.spec.mels, "hann", self.spec.rate).transpose(1, 2)
        columns = self.spec.columns
        return F.pad(banks, (0, max(columns - banks.shape[2], 0)))[:, None, :, :columns]

    def standard(self, banks: Float[Tensor, "views 1 mels columns"]) -> Float[Tensor, "views 1 mels columns"]:
        return (banks - self.spec.bank_mean) / self.spec.bank_deviation

    def forward(self, heard: Float[Tensor, "views 1 mels columns"]) -> Features:
        found = self.embedding(self.trunk(heard))
        if self.spec.scaled:
            found = found * self.log_scale.float().exp().clamp(max=LARGEST).to(found.dtype)
        return Features(found, (1,))

    def trunk(self, heard: Float[Tensor, "views 1 mels columns"]) -> Float[Tensor, "views tokens dim"]:
        """Class token and patches after the last layer."""
        patches = self.stem_norm(self.patches(heard).flatten(2).transpose(1, 2))
        return self.through(self.with_class(patches) + self.positions)
