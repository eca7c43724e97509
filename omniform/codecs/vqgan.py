"""VQ-GAN: a convolutional encoder, the nearest entry of a codebook for every cell, a convolutional decoder.

arXiv:2012.09841 section 3.1; layers as in CompVis/taming-transformers taming/modules/diffusionmodules/model.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from omniform.codecs.families import ImageCodec
from omniform.frozen import FrozenMap
from omniform.geometry import Grid, SpecError
from omniform.parts import Shrunk, conv_flops

GROUPS = 32
"""Groups of every norm."""

Conv = tuple[int, int, int, int]
"""(kernel, in, out, output cells) of one convolution."""


@dataclass(frozen=True, kw_only=True)
class VqGan(ImageCodec):
    """One code for each square of pixels. Pictures of other sizes are continued at their right and lower rims.

    Attributes:
        name: the released weights it stands for, as the field calls them.
        image: side of the pictures it was trained on, in pixels.
        width: channels of the first level.
        levels: factor on `width` of each level; every level but the last halves the map.
        blocks: residual blocks of a level in the encoder; the decoder has one more.
        latent: channels between the networks and the codebook's projections.
        dim: width of a codebook entry.
        entries: of the codebook.
        attended: sides of the maps, for pictures of side `image`, whose blocks are followed by attention.
    """

    implementation = "omniform.codecs.vqgan_module:VqGanModule"
    # beside them the original learns from a network that judges likeness and one that tells forgeries
    errors = FrozenMap(squared=1.0, absolute=0.0, codebook=1.0)

    name: str = "VQ-GAN"
    image: int = 256
    width: int = 128
    levels: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    latent: int = 256
    dim: int = 256
    entries: int = 8192
    attended: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        odd = [self.width * level for level in self.levels if self.width * level % GROUPS]
        if odd or not self.levels:
            raise SpecError(
                f"channels {odd or 'of no level'} do not divide into {GROUPS} groups; change width or levels"
            )
        if self.image % self.stride:
            raise SpecError(
                f"VqGan halves pictures {len(self.levels) - 1} times: {self.image} must divide by {self.stride}"
            )

    @property
    def title(self) -> str:
        return self.name

    @property
    def codebook(self) -> int:
        return self.entries

    @property
    def feature_dim(self) -> int:
        return self.dim

    @property
    def size(self) -> Grid:
        return self.image, self.image

    @property
    def stride(self) -> int:
        """Pixels that a cell stands for, on each side."""
        return 2 ** (len(self.levels) - 1)

    def cells(self, extent: Grid) -> Grid:
        return tuple(-(-side // self.stride) for side in extent)

    def attends(self, level: int) -> bool:
        """Whether the blocks of a level are followed by attention."""
        return self.image // 2**level in self.attended

    # -- cost --

    def encoder_blocks(self) -> Iterator[tuple[int, int, int]]:
        """(level, in, out) of the residual blocks of the encoder's levels."""
        channels = self.width
        for level, factor in enumerate(self.levels):
            for _ in range(self.blocks):
                yield level, channels, self.width * factor
                channels = self.width * factor

    def decoder_blocks(self) -> Iterator[tuple[int, int, int]]:
        """(level, in, out) of the residual blocks of the decoder's levels, the smallest map first."""
        channels = self.width * self.levels[-1]
        for level in reversed(range(len(self.levels))):
            for _ in range(self.blocks + 1):
                yield level, channels, self.width * self.levels[level]
                channels = self.width * self.levels[level]

    def num_params(self) -> int:
        everywhere = [*self._encoder((self.stride, self.stride)), *self._decoder((self.stride, self.stride))]
        convs = sum(k * k * a * b + b for k, a, b, _ in everywhere)
        return convs + self._norm_params() + self.entries * self.dim

    def flops(self, extent: Grid) -> int:
        """Convolutions, attention, and the comparison with all entries."""
        cells = self.codes(extent)
        return self._sum(self._encoder(extent), extent, self.blocks) + 2 * cells * self.dim * self.entries

    def decode_flops(self, extent: Grid) -> int:
        return self._sum(self._decoder(extent), extent, self.blocks + 1)

    def _sum(self, convs: Iterator[Conv], extent: Grid, blocks: int) -> int:
        """Convolutions, and the two products of every attention."""
        attention = 4 * self.codes(extent) ** 2 * self.width * self.levels[-1]
        for level, factor in enumerate(self.levels):
            attention += blocks * self.attends(level) * 4 * self._area(extent, level) ** 2 * self.width * factor
        return attention + sum(conv_flops(cells, k, a, b) for k, a, b, cells in convs)

    def _area(self, extent: Grid, level: int) -> int:
        rows, columns = (cells * self.stride // 2**level for cells in self.cells(extent))
        return rows * columns

    def _encoder(self, extent: Grid) -> Iterator[Conv]:
        inner = self.width * self.levels[-1]
        yield 3, 3, self.width, self._area(extent, 0)
        for level, a, b in self.encoder_blocks():
            yield from self._block(a, b, self._area(extent, level), self.attends(level))
        for level, factor in enumerate(self.levels[:-1]):
            yield 3, self.width * factor, self.width * factor, self._area(extent, level + 1)
        cells = self._area(extent, len(self.levels) - 1)
        yield from self._middle(inner, cells)
        yield 3, inner, self.latent, cells
        yield 1, self.latent, self.dim, cells

    def _decoder(self, extent: Grid) -> Iterator[Conv]:
        inner, cells = self.width * self.levels[-1], self._area(extent, len(self.levels) - 1)
        yield 1, self.dim, self.latent, cells
        yield 3, self.latent, inner, cells
        yield from self._middle(inner, cells)
        for level, a, b in self.decoder_blocks():
            yield from self._block(a, b, self._area(extent, level), self.attends(level))
        for level, factor in enumerate(self.levels[1:]):
            yield 3, self.width * factor, self.width * factor, self._area(extent, level)
        yield 3, self.width * self.levels[0], 3, self._area(extent, 0)

    @staticmethod
    def _block(a: int, b: int, cells: int, attends: bool = False) -> Iterator[Conv]:
        yield 3, a, b, cells
        yield 3, b, b, cells
        if a != b:
            yield 1, a, b, cells
        if attends:
            yield from [(1, b, b, cells)] * 4

    def _middle(self, channels: int, cells: int) -> Iterator[Conv]:
        yield from self._block(channels, channels, cells, attends=True)
        yield from self._block(channels, channels, cells)

    def _norm_params(self) -> int:
        inner = self.width * self.levels[-1]
        blocks = [*self.encoder_blocks(), *self.decoder_blocks()]
        within = sum(2 * (a + b + (b if self.attends(level) else 0)) for level, a, b in blocks)
        middles = 2 * 2 * 5 * inner  # two blocks of two norms and one attention, in both networks
        return within + middles + 2 * inner + 2 * self.width * self.levels[0]

    # -- sizes --

    def shrunk(self, size: Shrunk) -> Self:
        if size == "tiny":
            return self.but(image=8, width=32, levels=(1, 1, 1), blocks=1, latent=8, dim=4, entries=24, attended=())
        return self.but(image=32, width=32, levels=(1, 1, 2, 2), blocks=1, latent=16, dim=16, entries=256, attended=())


MAKE_A_SCENE_512 = VqGan(name="Make-A-Scene", image=512)
"""The tokenizer of arXiv:2203.13131, at 512 px."""
