"""What codecs of sound share: waveforms of a wanted length, and as files."""

from __future__ import annotations

import io
import wave

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from omniform.geometry import Grid


def fitted(samples: Float[Tensor, "*n samples"], extent: Grid | None) -> Float[Tensor, "*n wanted"]:
    """Cut, or filled with silence, to the extent; as it is without one."""
    if extent is None:
        return samples
    return F.pad(samples, (0, max(0, extent[0] - samples.shape[-1])))[..., : extent[0]]


def wav_bytes(samples: Float[Tensor, " samples"], rate: int) -> bytes:
    """A mono WAV file of 16 bits; samples beyond -1 to 1 are clipped."""
    pcm = (samples.detach().float().clamp(-1, 1) * 32767).round().short().cpu().numpy()
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm.tobytes())
    return file.getvalue()
