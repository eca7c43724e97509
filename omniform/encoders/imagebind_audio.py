"""The audio tower of ImageBind (arXiv:2305.05665): two seconds of sound -> one embedding in its shared space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from omniform.encoders.audio import AudioEncoder
from omniform.encoders.imagebind import ImageBindTower, tower_rules
from omniform.frozen import FrozenMap
from omniform.geometry import Grid, Hw
from omniform.parts import Shrunk, conv_flops

FRAME, SHIFT = 400, 160
"""Samples of one frame of the filter banks, and between two."""
FREQUENCIES = 257
"""Of a frame, before the filters."""
SMALL: Mapping[Shrunk, Mapping[str, int]] = FrozenMap(
    tiny=FrozenMap(width=24, layers=2, heads=3, mlp_dim=32, mels=36, columns=46, samples=7360, out_dim=24),
    nano=FrozenMap(width=96, layers=3, heads=4, mlp_dim=192, mels=64, columns=46, samples=7360, out_dim=128),
)


@dataclass(frozen=True, kw_only=True)
class ImageBindAudio(ImageBindTower, AudioEncoder):
    """Overlapping patches of a Kaldi spectrogram; every layer has a key and a value of its own that all tokens see.

    facebookresearch/ImageBind@53680b0 imagebind/data.py:32-68 (spectrogram),
    imagebind/models/imagebind_model.py:175-198 (patches), :330-338 (layers), :425-447 (scale). A sound has at most
    `samples`; its spectrogram ends in zeros where it has fewer than `columns`, and is normalised afterwards.

    Attributes:
        mels, columns: rows and columns of the spectrogram.
        patch, stride: side of a patch, and from one to the next.
        samples: of one view, at most.
        bank_mean, bank_deviation: taken off the spectrogram, and what it is divided by.
        scaled: whether embeddings take the length that the checkpoint holds, 20; systems that stay with unit length
            say so.
    """

    abstract = False
    implementation = "omniform.encoders.imagebind_audio_module:ImageBindAudioModule"
    released = (
        *tower_rules("audio", (("rgbt_stem.proj.", "patches."), ("rgbt_stem.norm_layer.", "stem_norm."))),
        ("modality_postprocessors.audio.1.log_logit_scale", "log_scale"),
    )
    bias_rows = True

    mels: int = 128
    columns: int = 204
    patch: int = 16
    stride: int = 10
    samples: int = 32000
    bank_mean: float = -4.268
    bank_deviation: float = 9.138
    scaled: bool = True

    @property
    def window(self) -> int:
        return self.samples

    @property
    def map(self) -> Hw:
        """Patches down and along the spectrogram."""
        return (self.mels - self.patch) // self.stride + 1, (self.columns - self.patch) // self.stride + 1

    @property
    def patches(self) -> int:
        return self.map[0] * self.map[1]

    def cells(self, size: Hw) -> Grid:
        self.heard(size, FRAME)
        return (1,)

    def stem_params(self) -> int:
        return self.patch**2 * self.width + 2 * self.width

    def flops(self, size: Hw) -> int:
        frames = 1 + (self.heard(size, FRAME) - FRAME) // SHIFT
        banks = 2 * frames * FREQUENCIES * self.mels
        return banks + conv_flops(self.patches, self.patch, 1, self.width) + self.layers_flops()

    def shrunk(self, size: Shrunk) -> ImageBindAudio:
        return self.but(**SMALL[size])


IMAGEBIND_HUGE_AUDIO = ImageBindAudio(width=768, layers=12, heads=12, mlp_dim=3072, out_dim=1024)
