"""What codecs of sound share: waveforms from views, of a wanted length, and as files."""

from __future__ import annotations

import io
import wave
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from omniform.geometry import Grid


class WaveCodec(nn.Module):
    """Base of audio codecs, which `encode` waveforms and `decode` codes to them."""

    decode: Any

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec = spec

    def normalise(self, waves: Float[Tensor, "views 1 samples"]) -> Float[Tensor, "views samples"]:
        """What `encode` reads of views: waveforms in the codec's precision."""
        return waves[:, 0].to(next(self.parameters()).dtype)

    @torch.inference_mode()
    def render(self, codes: Int[Tensor, " codes"], extent: Grid | None = None) -> bytes:
        """The sound of one medium's codes, as a WAV file."""
        return wav_bytes(self.decode(codes[None], extent)[0], self.spec.rate)


def fitted(samples: Float[Tensor, "*n samples"], extent: Grid | None) -> Float[Tensor, "*n wanted"]:
    """Cut, or filled with silence, to the extent; as it is without one."""
    if extent is None:
        return samples
    return F.pad(samples, (0, max(0, extent[0] - samples.shape[-1])))[..., : extent[0]]


def wav_bytes(samples: Float[Tensor, "samples ..."], rate: int) -> bytes:
    """A WAV file of 16 bits; samples beyond -1 to 1 are clipped."""
    pcm = (samples.detach().float().clamp(-1, 1) * 32767).round().short().cpu().numpy()
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(samples.shape[1] if samples.ndim > 1 else 1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm.tobytes())
    return file.getvalue()
