"""Modules of `codecs.units`; parameter names are those of the public checkpoints."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from omniform.codecs.units import Units, Vocoder
from omniform.codecs.wave_module import WaveCodec, fitted
from omniform.geometry import Grid

SLOPE = 0.1
"""Of the leaky rectifiers."""


class NormedConv(nn.Module):
    """A one-dimensional convolution whose kernels have a direction `weight_v` and a length `weight_g`."""

    def __init__(
        self,
        a: int,
        b: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        up: bool = False,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        plain: Any = nn.ConvTranspose1d if up else nn.Conv1d
        if padding is None:
            padding = (kernel - stride) // 2 if up else (kernel - 1) * dilation // 2
        self.arguments = {"stride": stride, "dilation": dilation, "padding": padding}
        weight = plain(a, b, kernel, **self.arguments).weight.detach()
        self.up = up
        self.weight_v = nn.Parameter(weight)
        self.weight_g = nn.Parameter(weight.norm(dim=(1, 2), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(b))

    def forward(self, x: Float[Tensor, "n a length"]) -> Float[Tensor, "n b longer"]:
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(1, 2), keepdim=True))
        return (F.conv_transpose1d if self.up else F.conv1d)(x, weight, self.bias, **self.arguments)


class ResidualBlock(nn.Module):
    """Pairs of convolutions, the first of each dilated."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(NormedConv(channels, channels, kernel, dilation=d) for d in dilations)
        self.convs2 = nn.ModuleList(NormedConv(channels, channels, kernel) for _ in dilations)

    def forward(self, x: Float[Tensor, "n c length"]) -> Float[Tensor, "n c length"]:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class DurationPredictor(nn.Module):
    """Log of one more than the frames that each unit lasts."""

    def __init__(self, spec: Vocoder) -> None:
        super().__init__()
        a, b, kernel = spec.dim, spec.durations, spec.duration_kernel
        self.conv1 = nn.Sequential(nn.Conv1d(a, b, kernel, padding=(kernel - 1) // 2), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv1d(b, b, kernel, padding=1), nn.ReLU())
        self.ln1, self.ln2, self.proj = nn.LayerNorm(b), nn.LayerNorm(b), nn.Linear(b, 1)

    def forward(self, x: Float[Tensor, "n units dim"]) -> Float[Tensor, "n units"]:
        x = self.ln1(self.conv1(x.transpose(1, 2)).transpose(1, 2))
        x = self.ln2(self.conv2(x.transpose(1, 2)).transpose(1, 2))
        return self.proj(x)[..., 0]


class VocoderModule(nn.Module):
    """Units -> waveform in [-1, 1]."""

    def __init__(self, spec: Vocoder, units: int) -> None:
        super().__init__()
        self.dict = nn.Embedding(units, spec.dim)
        self.dur_predictor = DurationPredictor(spec) if spec.durations else None
        self.conv_pre = NormedConv(spec.dim, spec.width, 7)
        channels = [spec.width // 2**i for i in range(len(spec.rates) + 1)]
        self.ups = nn.ModuleList(
            NormedConv(a, b, kernel, stride=rate, up=True)
            for a, b, kernel, rate in zip(channels, channels[1:], spec.kernels, spec.rates, strict=False)
        )
        blocks = list(zip(spec.block_kernels, spec.dilations, strict=True))
        self.resblocks = nn.ModuleList(ResidualBlock(c, k, d) for c in channels[1:] for k, d in blocks)
        self.conv_post = NormedConv(channels[-1], 1, 7)

    def durations(self, units: Int[Tensor, "n units"]) -> Int[Tensor, "n units"]:
        """Frames that each unit lasts, at least 1."""
        if self.dur_predictor is None:
            return torch.ones_like(units)
        return (self.dur_predictor(self.dict(units)).exp() - 1).round().long().clamp(min=1)

    def forward(self, frames: Int[Tensor, "n frames"]) -> Float[Tensor, "n samples"]:
        """One unit for each frame."""
        x = self.conv_pre(self.dict(frames).transpose(1, 2))
        each = len(self.resblocks) // len(self.ups)
        for number, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            blocks = [self.resblocks[number * each + i](x) for i in range(each)]
            x = torch.stack(blocks).sum(0) / each
        return torch.tanh(self.conv_post(F.leaky_relu(x)))[:, 0]


class Means(nn.Module):
    """Centres of k-means."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(count, dim))

    def nearest(self, x: Float[Tensor, "*frames dim"]) -> Int[Tensor, "*frames"]:
        distances = x.square().sum(-1, keepdim=True) - 2 * x @ self.centers.T + self.centers.square().sum(-1)
        return distances.argmin(-1)


class UnitsModule(WaveCodec):
    """Waveforms to units and back."""

    def __init__(self, spec: Units) -> None:
        super().__init__(spec)
        self.hubert = HubertModel(HubertConfig(**spec.config()))
        self.kmeans = Means(spec.units, spec.dim)
        self.vocoder = spec.vocoder.build(units=spec.units)

    def features(self, wave: Float[Tensor, "n samples"]) -> Float[Tensor, "n frames dim"]:
        """Output of the chosen layer, of what is heard at once."""
        wave = F.pad(wave, (0, max(0, self.spec.shortest - wave.shape[1])))
        layers = self.hubert.encoder.layers
        x = self.hubert.feature_projection(self.hubert.feature_extractor(wave).transpose(1, 2))
        x = self.hubert.encoder.layer_norm(x + self.hubert.encoder.pos_conv_embed(x))
        for layer in layers[: self.spec.layer]:
            out = layer(x)
            x = out[0] if isinstance(out, tuple) else out  # transformers' layers gave tuples before 5.20
        return x

    def encode(self, wave: Float[Tensor, "n samples"]) -> Int[Tensor, "n frames"]:
        """A unit for each frame; `merged` makes runs one."""
        if self.spec.normalised:
            wave = F.layer_norm(wave, wave.shape[1:])
        parts = wave.split(self.spec.heard(wave.shape[1]), dim=1)
        return self.kmeans.nearest(torch.cat([self.features(part) for part in parts], dim=1))

    def encode_each(self, views: Float[Tensor, "n 1 samples"]) -> list[Int[Tensor, " _codes"]]:
        """What the backbone reads of each waveform."""
        return [self.merged(units)[0] for units in self.encode(self.normalise(views))]

    def merged(self, units: Int[Tensor, " frames"]) -> tuple[Int[Tensor, " codes"], Int[Tensor, " codes"]]:
        """What the backbone reads of one medium, and the frames that each code stands for."""
        if not self.spec.merged:
            return units, torch.ones_like(units)
        codes, counts = torch.unique_consecutive(units, return_counts=True)
        return codes, counts

    def decode(self, codes: Int[Tensor, "n codes"], extent: Grid | None = None) -> Float[Tensor, "n samples"]:
        """Waveforms, cut or filled with silence to the extent; durations are predicted where units were merged."""
        rows = []
        for row in codes:
            lasts = self.vocoder.durations(row[None])[0] if self.spec.merged else torch.ones_like(row)
            rows.append(fitted(self.vocoder(row.repeat_interleave(lasts)[None])[0], extent))
        longest = max(len(row) for row in rows)
        return torch.stack([F.pad(row, (0, longest - len(row))) for row in rows])
