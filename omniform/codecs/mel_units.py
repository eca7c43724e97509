"""Speech units small enough to be learned on a laptop: k means of log-mel frames, spoken as Griffin and Lim do.

The idea of arXiv:2104.00355 (resynthesis from units), with spectrograms in the place of learned features, and in that
of a vocoder phases found by iteration (Griffin and Lim 1984; with momentum, Perraudin et al. 2013).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from omniform.codecs.families import AudioCodec
from omniform.frozen import FrozenMap
from omniform.geometry import Grid, SpecError, conv1d_flops
from omniform.parts import Shrunk


@dataclass(frozen=True, kw_only=True)
class MelUnits(AudioCodec):
    """A unit for every `stack` frames of a log-mel spectrogram: the nearest of k means.

    Attributes:
        fft, hop: samples of an analysis window, and between two.
        mels: rows of the spectrogram.
        stack: frames of a unit.
        units: number of means.
        width: of the units' embeddings, and channels of the two convolutions that refine the means they stand for.
        kernel: units that a convolution sees.
        rounds: of the iteration that finds phases.
    """

    implementation = "omniform.codecs.mel_units_module:MelUnitsModule"
    errors: ClassVar[Mapping[str, float]] = FrozenMap(absolute=1.0, means=1.0)
    """Factors of what its module lessens when it learns."""

    rate: int = 16000
    fft: int = 1024
    hop: int = 256
    mels: int = 80
    stack: int = 2
    units: int = 256
    width: int = 128
    kernel: int = 5
    rounds: int = 60

    def __post_init__(self) -> None:
        if self.fft % 2 or not 1 <= self.hop <= self.fft // 2:
            raise SpecError(
                f"windows of {self.fft} samples every {self.hop}; give an even window, twice the hop or more"
            )
        if self.kernel % 2 == 0:
            raise SpecError(f"kernel {self.kernel} has no middle; give an odd one")

    @property
    def title(self) -> str:
        return "Mel Units"

    @property
    def writer(self) -> str:
        return "Griffin-Lim"

    @property
    def codebook(self) -> int:
        return self.units

    @property
    def dim(self) -> int:
        """Width of a mean."""
        return self.stack * self.mels

    @property
    def cell(self) -> int:
        """Samples of a unit."""
        return self.stack * self.hop

    def cells(self, extent: Grid) -> Grid:
        return (-(-extent[0] // self.cell),)

    # -- cost --

    def num_params(self) -> int:
        convs = 2 * (self.kernel * self.width**2 + self.width)
        return self.units * (self.dim + self.width) + convs + (self.width + 1) * self.dim

    def flops(self, extent: Grid) -> int:
        cells = self.cells(extent)[0]
        filters = 2 * cells * self.stack * (self.fft // 2 + 1) * self.mels
        return filters + 2 * cells * self.dim * self.units

    def decode_flops(self, extent: Grid) -> int:
        """Transforms of the iteration not counted, as a transform is not when encoding."""
        cells = self.cells(extent)[0]
        refined = 2 * conv1d_flops(cells, self.kernel, self.width, self.width) + 2 * cells * self.width * self.dim
        return refined + 2 * cells * self.stack * (self.fft // 2 + 1) * self.mels

    # -- sizes --

    def shrunk(self, size: Shrunk) -> Self:
        if size == "nano":
            return type(self)(stack=self.stack)
        return self.but(rate=80, fft=16, hop=4, mels=3, units=12, width=8, kernel=3, rounds=2)
