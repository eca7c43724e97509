"""A small convolutional encoder for short sounds: what takes a speech model's place at laptop size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from omniform.encoders.audio import AudioEncoder
from omniform.geometry import Grid, Hw, SpecError, conv1d_flops
from omniform.parts import Shrunk

HOP = 160
"""Samples between two columns of the spectrogram."""
FREQUENCIES = 201
"""Of a column, before the mel filters."""


@dataclass(frozen=True, kw_only=True)
class MelConvNet(AudioEncoder):
    """Log-mel spectrogram (as Whisper's) -> stages of one halving and some residual convolutions over time.

    Each is followed by a group norm within its sound, so that a sound's features do not depend on its batch.

    Attributes:
        mels: rows of the spectrogram.
        columns: of the longest sound; each stands for 160 samples.
        widths: channels of each stage; the last is the features' width.
        depth: residual convolutions of each stage.
        kernel: cells that a convolution sees.
        groups: groups of each norm.
    """

    abstract = False
    implementation = "omniform.encoders.mel_conv_net_module:MelConvNetModule"

    mels: int = 40
    columns: int = 320
    widths: tuple[int, ...] = (96, 128, 160)
    depth: int = 1
    kernel: int = 5
    groups: int = 8

    def __post_init__(self) -> None:
        if not self.widths or any(width % self.groups for width in self.widths):
            raise SpecError(f"widths {self.widths} must be multiples of the {self.groups} groups of the norms")
        if self.kernel % 2 == 0:
            raise SpecError(f"kernel {self.kernel} has no middle; give an odd one")

    @property
    def dim(self) -> int:
        return self.widths[-1]

    @property
    def window(self) -> int:
        return self.columns * HOP

    def lengths(self, size: Hw) -> Iterator[int]:
        """Cells over time: of the spectrogram, then after each stage."""
        length = self.heard(size, 2 * HOP) // HOP
        yield length
        for _ in self.widths:
            length = -(-length // 2)
            yield length

    def cells(self, size: Hw) -> Grid:
        return (list(self.lengths(size))[-1],)

    def num_params(self) -> int:
        return sum(
            self.kernel * b * (a + self.depth * b) + 2 * b * (1 + self.depth)
            for a, b in pairwise((self.mels, *self.widths))
        )

    def flops(self, size: Hw) -> int:
        first, *after = self.lengths(size)
        total = 2 * first * FREQUENCIES * self.mels
        for length, (a, b) in zip(after, pairwise((self.mels, *self.widths)), strict=True):
            total += conv1d_flops(length, self.kernel, a + self.depth * b, b)
        return total

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(mels=8, columns=24, widths=(8, 16), kernel=3, groups=8) if size == "tiny" else self
