"""Pictures from conditions by latent diffusion (arXiv:2112.10752, and arXiv:2307.01952 for large ones)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from omniform.geometry import Grid, SpecError
from omniform.latent import (
    Cost,
    Level,
    coder_config,
    coder_params,
    decoder,
    denoiser,
    denoiser_config,
    flops,
    linear,
    params,
)
from omniform.parts import Part, Shrunk

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
        return params(self._denoiser((1, 1), 1)) + coder_params(*self._coder) + self.empty * self.condition

    def flops(self, extent: Grid, rows: int) -> int:
        """Forward FLOPs of one picture from a condition of so many rows; guidance doubles the denoiser's."""
        cells = self.latent(extent)
        return 2 * self.steps * flops(self._denoiser(cells, rows)) + flops(decoder(cells, *self._coder))

    @property
    def levels(self) -> list[Level]:
        """Of the denoiser."""
        pairs = zip(self.widths, self.depths, strict=True)
        return [Level(width=width, depth=depth, condition=self.condition) for width, depth in pairs]

    def _denoiser(self, cells: Grid, rows: int) -> Iterator[Cost]:
        first, time = self.widths[0], 4 * self.widths[0]
        yield from (linear(1, first, time), linear(1, time, time))
        if self.pooled:
            yield from (linear(1, self.pooled + SIZES * self.size_dim, time), linear(1, time, time))
        yield from denoiser(cells, LATENT, self.levels, self.blocks, time, rows)

    @property
    def _coder(self) -> tuple[int, int, tuple[int, ...], int]:
        """Colours, latent channels, widths and blocks of the autoencoder."""
        return 3, LATENT, self.coder_widths, self.coder_blocks

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
        sized = {
            "addition_embed_type": "text_time", "addition_time_embed_dim": self.size_dim,
            "projection_class_embeddings_input_dim": self.pooled + SIZES * self.size_dim,
        }  # fmt: skip
        return {
            **denoiser_config(LATENT, self.levels, self.blocks, self.groups), **(sized if self.pooled else {}),
            "sample_size": self.image // self.stride,
            "transformer_layers_per_block": tuple(depth or 1 for depth in self.depths),
            "attention_head_dim": self.heads,  # diffusers' name for the number of heads
            "cross_attention_dim": self.condition, "use_linear_projection": self.linear,
        }  # fmt: skip

    def coder_config(self) -> dict[str, Any]:
        """Arguments of `AutoencoderKL`."""
        config = coder_config(*self._coder, self.groups)
        return {**config, "sample_size": self.image, "scaling_factor": self.scale}


SD_1_5 = Painter()
"""Stable Diffusion 1.5."""
SDXL = Painter(
    image=1024, condition=2048, pooled=1280, widths=(320, 640, 1280), depths=(0, 2, 10), heads=(5, 10, 20), linear=True,
    scale=0.13025,
)  # fmt: skip
"""Stable Diffusion XL, its first stage."""
