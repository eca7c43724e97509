"""Module of `encoders.mel_conv_net`."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.audio_module import AudioModule, log_mel
from omniform.encoders.mel_conv_net import MelConvNet


class MelConvNetModule(AudioModule):
    """Spectrogram (views, mels, columns) -> one row of features for each cell of time."""

    def __init__(self, spec: MelConvNet) -> None:
        super().__init__(spec)
        self.stages = nn.Sequential(*(Stage(spec, a, b) for a, b in pairwise((spec.mels, *spec.widths))))

    def normalise(self, waves: Float[Tensor, "views 1 samples"]) -> Float[Tensor, "views mels columns"]:
        return log_mel(waves[:, 0].float(), self.spec.mels, self.spec.rate).to(self.dtype())

    def forward(self, heard: Float[Tensor, "views mels columns"]) -> Features:
        x = self.stages(heard).transpose(1, 2)
        return Features(x, (x.shape[1],))

    def layer_prefix(self) -> str:
        return "stages."


class Stage(nn.Module):
    """Half the length, then residual convolutions."""

    def __init__(self, spec: MelConvNet, in_dim: int, dim: int) -> None:
        super().__init__()
        self.down = NormedConv(spec, in_dim, dim, stride=2)
        self.residual = nn.ModuleList(NormedConv(spec, dim, dim) for _ in range(spec.depth))

    def forward(self, x: Float[Tensor, "n a length"]) -> Float[Tensor, "n b shorter"]:
        x = self.down(x)
        for conv in self.residual:
            x = x + conv(x)
        return x


class NormedConv(nn.Module):
    """Convolution, norm, GELU."""

    def __init__(self, spec: MelConvNet, in_dim: int, dim: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_dim, dim, spec.kernel, stride=stride, padding=spec.kernel // 2, bias=False)
        self.norm = nn.GroupNorm(spec.groups, dim)

    def forward(self, x: Float[Tensor, "n a length"]) -> Float[Tensor, "n b shorter"]:
        return F.gelu(self.norm(self.conv(x)))
