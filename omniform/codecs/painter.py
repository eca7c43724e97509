"""Pictures from conditions by latent diffusion (arXiv:2112.10752, and arXiv:2307.01952 for large ones)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from omniform.geometry import Grid, SpecError, conv_flops
from omniform.parts import Part, Shrunk

Cost = tuple[int, int]
"""Parameters and forward FLOPs of one layer."""
LATENT = 4
"""Channels of the autoencoder's latents."""
SIZES = 6
"""Numbers that tell the sizes of a picture: original, crop and target."""


@dataclass(frozen=True, kw_only=True)
class Painter(Part):
    """A denoiser and an autoencoder, run by diffusers: rows of a condition -> a picture.

    Attributes:
        image: side of the pictures, in pixels.
        condition: width of the condition's rows.
        pooled: width of the vector that stands beside them with the picture's sizes (arXiv:2307.01952 section 2.2);
            0: neither.
        empty: rows that stand for no condition, held with the weights; 0 is zeros, as many as the condition has.
        widths: channels of the denoiser's levels; every level but the last halves the map.
        blocks: residual blocks of a level on the way down; on the way up there is one more.
        depths: layers of attention behind each block of a level; 0: none. The middle has those of the last level, or 1.
        heads: of attention in each level.
        linear: whether attention is entered by linear layers, not by convolutions.
        groups: of every norm.
        coder_widths, coder_blocks: of the autoencoder.
        scale: factor on its latents.
        steps: of the sampler (DDIM, arXiv:2010.02502).
        guidance: scale of the step from no condition to the condition (arXiv:2207.12598).
    """

    implementation = "omniform.codecs.painter_module:PainterModule"

    image: int = 512
    condition: int = 768
    pooled: int = 0
    empty: int = 0
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    depths: tuple[int, ...] = (1, 1, 1, 0)
    heads: tuple[int, ...] = (8, 8, 8, 8)
    linear: bool = False
    groups: int = 32
    coder_widths: tuple[int, ...] = (128, 256, 512, 512)
    coder_blocks: int = 2
    scale: float = 0.18215
    steps: int = 50
    guidance: float = 7.0

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.depths) == len(self.heads):
            raise SpecError(
                f"{len(self.widths)} widths, {len(self.depths)} depths and {len(self.heads)} heads of the denoiser's "
                "levels; give one of each for every level"
            )
        if self.image % self.stride:
            raise SpecError(f"pictures of {self.image} pixels are no whole number of latent cells of {self.stride}")

    @property
    def stride(self) -> int:
        """Pixels of a latent cell, on each side."""
        return 2 ** (len(self.coder_widths) - 1)

    @property
    def size_dim(self) -> int:
        """Width of what tells one number of the picture's sizes; the release's is 256 beside a width of 320."""
        return self.widths[0] * 4 // 5

    def latent(self, extent: Grid) -> Grid:
        """Latent cells of a picture; what is over is cut off again."""
        return tuple(-(-side // self.stride) for side in extent)

    # -- cost --

    def num_params(self) -> int:
        layers = [*self._denoiser((8, 8), 1), *self._coder((8, 8))]
        return sum(params for params, _ in layers) + self.empty * self.condition

    def flops(self, extent: Grid, rows: int) -> int:
        """Forward FLOPs of one picture from a condition of so many rows; guidance doubles the denoiser's."""
        cells = self.latent(extent)
        denoiser = sum(flops for _, flops in self._denoiser(cells, rows))
        return 2 * self.steps * denoiser + sum(flops for _, flops in self._coder(cells, decode=True))

    def _denoiser(self, cells: Grid, rows: int) -> Iterator[Cost]:
        first, time = self.widths[0], 4 * self.widths[0]
        areas = [_area(cells, level) for level in range(len(self.widths))]
        yield _conv(areas[0], 3, LATENT, first)
        yield from (_linear(1, first, time), _linear(1, time, time))
        if self.pooled:
            yield from (_linear(1, self.pooled + SIZES * self.size_dim, time), _linear(1, time, time))
        yield from self._down(areas, time, rows)
        last = self.widths[-1]
        yield from (*_residual(areas[-1], last, last, time), *_residual(areas[-1], last, last, time))
        yield from self._attention(areas[-1], last, self.depths[-1] or 1, rows)
        yield from self._up(areas, time, rows)
        yield from (_norm(first), _conv(areas[0], 3, first, LATENT))

    def _down(self, areas: list[int], time: int, rows: int) -> Iterator[Cost]:
        channels = self.widths[0]
        for level, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            for _ in range(self.blocks):
                yield from _residual(areas[level], channels, width, time)
                yield from self._attention(areas[level], width, depth, rows)
                channels = width
            if level + 1 < len(self.widths):
                yield _conv(areas[level + 1], 3, width, width)

    def _up(self, areas: list[int], time: int, rows: int) -> Iterator[Cost]:
        """Levels from the last to the first; every block reads what one on the way down gave, too."""
        given = [self.widths[0]]
        for level, width in enumerate(self.widths):
            given += [width] * (self.blocks + (level + 1 < len(self.widths)))
        channels = self.widths[-1]
        for level in reversed(range(len(self.widths))):
            width = self.widths[level]
            for _ in range(self.blocks + 1):
                yield from _residual(areas[level], channels + given.pop(), width, time)
                yield from self._attention(areas[level], width, self.depths[level], rows)
                channels = width
            if level:
                yield _conv(areas[level - 1], 3, width, width)

    def _attention(self, cells: int, width: int, depth: int, rows: int) -> Iterator[Cost]:
        if not depth:
            return
        yield from (_norm(width), _linear(cells, width, width), _linear(cells, width, width))
        for _ in range(depth):
            yield from [_norm(width)] * 3
            for count, inner in ((cells, width), (rows, self.condition)):  # to itself, then to the condition
                yield from [_linear(count, inner, width, bias=False)] * 2
                yield _linear(cells, width, width, bias=False)
                yield _linear(cells, width, width)
                yield 0, 4 * cells * count * width
            yield from (_linear(cells, width, 8 * width), _linear(cells, 4 * width, width))

    def _coder(self, cells: Grid, *, decode: bool = False) -> Iterator[Cost]:
        """Layers of the autoencoder; with `decode` of its second half only."""
        widths, inner = self.coder_widths, self.coder_widths[-1]
        areas = [_area(cells, level + 1 - len(widths)) for level in range(len(widths))]
        if not decode:
            yield _conv(areas[0], 3, 3, widths[0])
            yield from self._levels(areas, list(enumerate(widths)), widths[0], self.coder_blocks, 1)
            yield from _middle(areas[-1], inner)
            yield from (_norm(inner), _conv(areas[-1], 3, inner, 2 * LATENT), _conv(areas[-1], 1, 8, 8))
        yield from (_conv(areas[-1], 1, LATENT, LATENT), _conv(areas[-1], 3, LATENT, inner))
        yield from _middle(areas[-1], inner)
        yield from self._levels(areas, list(enumerate(widths))[::-1], inner, self.coder_blocks + 1, -1)
        yield from (_norm(widths[0]), _conv(areas[0], 3, widths[0], 3))

    @staticmethod
    def _levels(
        areas: list[int], levels: list[tuple[int, int]], channels: int, blocks: int, step: int
    ) -> Iterator[Cost]:
        for level, width in levels:
            for _ in range(blocks):
                yield from _residual(areas[level], channels, width)
                channels = width
            if level != levels[-1][0]:
                yield _conv(areas[level + step], 3, width, width)

    # -- sizes --

    def shrunk(self, size: Shrunk) -> Self:
        wide = 8 if size == "tiny" else 16
        return self.but(
            image=16 if size == "tiny" else 64, condition=8, pooled=8 if self.pooled else 0, empty=min(self.empty, 3),
            widths=(wide, 2 * wide), blocks=1, depths=(0, 1), heads=(2, 2), groups=4, coder_widths=(wide, wide),
            coder_blocks=1, steps=2,
        )  # fmt: skip

    # -- diffusers --

    def denoiser_config(self) -> dict[str, Any]:
        """Arguments of `UNet2DConditionModel`."""
        kinds = ["CrossAttn" if depth else "" for depth in self.depths]
        sized = {
            "addition_embed_type": "text_time", "addition_time_embed_dim": self.size_dim,
            "projection_class_embeddings_input_dim": self.pooled + SIZES * self.size_dim,
        }  # fmt: skip
        return {
            "sample_size": self.image // self.stride, "in_channels": LATENT, "out_channels": LATENT,
            "block_out_channels": self.widths, "layers_per_block": self.blocks,
            "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
            "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            "transformer_layers_per_block": tuple(depth or 1 for depth in self.depths),
            "attention_head_dim": self.heads,  # diffusers' name for the number of heads
            "cross_attention_dim": self.condition, "use_linear_projection": self.linear,
            "norm_num_groups": self.groups, **(sized if self.pooled else {}),
        }  # fmt: skip

    def coder_config(self) -> dict[str, Any]:
        """Arguments of `AutoencoderKL`."""
        levels = len(self.coder_widths)
        return {
            "latent_channels": LATENT, "block_out_channels": self.coder_widths, "layers_per_block": self.coder_blocks,
            "down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels,
            "norm_num_groups": self.groups, "sample_size": self.image, "scaling_factor": self.scale,
        }  # fmt: skip


def _area(cells: Grid, level: int) -> int:
    """Cells of a map that was halved `level` times, or doubled where it is negative."""
    rows, columns = (-(-side // 2**level) if level >= 0 else side * 2**-level for side in cells)
    return rows * columns


def _norm(width: int) -> Cost:
    return 2 * width, 0


def _conv(cells: int, kernel: int, a: int, b: int) -> Cost:
    return kernel**2 * a * b + b, conv_flops(cells, kernel, a, b)


def _linear(rows: int, a: int, b: int, bias: bool = True) -> Cost:
    return a * b + b * bias, 2 * rows * a * b


def _residual(cells: int, a: int, b: int, time: int = 0) -> Iterator[Cost]:
    yield from (_norm(a), _conv(cells, 3, a, b), _norm(b), _conv(cells, 3, b, b))
    if time:
        yield _linear(1, time, b)
    if a != b:
        yield _conv(cells, 1, a, b)


def _middle(cells: int, width: int) -> Iterator[Cost]:
    yield from (*_residual(cells, width, width), *_residual(cells, width, width), _norm(width))
    yield from [_linear(cells, width, width)] * 4
    yield 0, 4 * cells**2 * width


SD_1_5 = Painter()
"""Stable Diffusion 1.5."""
SDXL = Painter(
    image=1024, condition=2048, pooled=1280, widths=(320, 640, 1280), depths=(0, 2, 10), heads=(5, 10, 20), linear=True,
    scale=0.13025,
)  # fmt: skip
"""Stable Diffusion XL, its first stage."""
