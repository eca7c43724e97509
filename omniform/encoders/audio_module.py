"""What audio encoders' modules share: spectrograms, computed in float32 where the waveform is encoded.

Whisper's logarithmic mel spectrogram equals transformers' WhisperFeatureExtractor; `filter_banks` equals
torchaudio.compliance.kaldi.fbank (2.8.0) without dither and energy.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from omniform.batch import Features
from omniform.encoders.audio import AudioEncoder

FFT, HOP = 400, 160
"""Whisper's analysis window and step, in samples."""
FRAME, SHIFT, PADDED = 400, 160, 512
"""Kaldi's frame of 25 ms and step of 10 ms at 16 kHz, and the length that is transformed."""
PREEMPHASIS = 0.97
LOWEST = 20.0
"""Lowest frequency of the filters, in Hz; the highest is half the rate."""
Taper: TypeAlias = Literal["povey", "hann"]


class AudioModule(nn.Module):
    """Base of audio encoders: `normalise` waveforms to what `forward` reads, then `forward` gives features."""

    def __init__(self, spec: AudioEncoder) -> None:
        super().__init__()
        self.spec: Any = spec

    def normalise(self, waves: Float[Tensor, "views 1 samples"]) -> Any:
        """What the network reads, in its precision."""
        raise NotImplementedError

    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def idle(self) -> tuple[str, ...]:
        """Prefixes of parameters that released weights hold but that no feature depends on."""
        return ()

    def layer_prefix(self) -> str:
        """Prefix before a layer's number in parameter names, for stages that train only later layers."""
        raise ValueError(f"{type(self).__name__} has no numbered layers to choose from; train it whole")

    def forward(self, heard: Any) -> Features:
        raise NotImplementedError


# --- Whisper -----------------------------------------------------------------------------------------------------


def log_mel(waves: Float[Tensor, "views samples"], mels: int, rate: int) -> Float[Tensor, "views mels columns"]:
    """Logarithm of a mel spectrogram of samples // 160 columns, at most 8 decades below its loudest cell, near [-1, 1].

    openai/whisper whisper/audio.py; the filters of transformers are those of its assets.
    """
    taper = torch.hann_window(FFT, device=waves.device)
    power = torch.stft(waves, FFT, HOP, window=taper, return_complex=True)[..., :-1].abs() ** 2
    decades = (_whisper_filters(mels, rate).to(waves.device).T @ power).clamp(min=1e-10).log10()
    loudest = decades.amax((1, 2), keepdim=True)
    return (torch.maximum(decades, loudest - 8.0) + 4.0) / 4.0


@cache
def _whisper_filters(mels: int, rate: int) -> Tensor:
    with torch.device("cpu"):
        bank = mel_filter_bank(FFT // 2 + 1, mels, 0.0, 8000.0, rate, norm="slaney", mel_scale="slaney")
        return torch.from_numpy(bank).float()


# --- Kaldi -------------------------------------------------------------------------------------------------------


def filter_banks(
    waves: Float[Tensor, "views samples"], bins: int, taper: Taper = "povey", rate: int = 16000
) -> Float[Tensor, "views frames bins"]:
    """Logarithms of Kaldi's mel filter banks: 1 + (samples - 400) // 160 whole frames.

    Each frame loses its mean, is pre-emphasised and tapered; powers, not magnitudes, are filtered.
    """
    frames = waves.unfold(-1, FRAME, SHIFT)
    frames = frames - frames.mean(-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    tapered = (frames - PREEMPHASIS * before) * _taper(taper).to(waves.device)
    power = torch.fft.rfft(F.pad(tapered, (0, PADDED - FRAME))).abs() ** 2
    banks = power @ _kaldi_filters(bins, rate).to(waves.device).T
    return banks.clamp(min=torch.finfo(torch.float32).eps).log()


@cache
def _taper(kind: Taper) -> Tensor:
    with torch.device("cpu"):
        hann = torch.hann_window(FRAME, periodic=False)
        return hann.pow(0.85) if kind == "povey" else hann


@cache
def _kaldi_filters(bins: int, rate: int) -> Tensor:
    """Triangles that are straight on the mel scale 1127 ln(1 + f / 700); the highest frequency has no weight."""
    with torch.device("cpu"):
        low, high = _mel(torch.tensor(LOWEST)), _mel(torch.tensor(rate / 2))
        step = (high - low) / (bins + 1)
        left = low + torch.arange(bins)[:, None] * step
        at = _mel(rate / PADDED * torch.arange(PADDED // 2))[None]
        rising, falling = (at - left) / step, (left + 2 * step - at) / step
        return F.pad(torch.minimum(rising, falling).clamp(min=0.0), (0, 1))


def _mel(hertz: Tensor) -> Tensor:
    return 1127.0 * (1.0 + hertz / 700.0).log()
