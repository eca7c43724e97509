"""A UNet on the features of a codec of pictures: latent diffusion that reads no words of its own (arXiv:2112.10752).

The first stage is regularised by its codebook (section 3.1, appendix G): diffusion runs on what the codec's encoder
gives before quantisation, and quantisation is the first layer of its decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from omniform.geometry import Hw, SpecError
from omniform.latent import Level, denoiser, denoiser_config, params
from omniform.parts import Codec, Shrunk
from omniform.writing import Diffusion


@dataclass(frozen=True, kw_only=True)
class CodecUnet(Diffusion):
    """Features are made along straight paths from noise (arXiv:2209.03003), whose velocity the UNet tells.

    The condition is attended to, and its mean stands beside the step's embedding. That of no words is learned.

    Attributes:
        name: what the field calls it.
        codec: the first stage, which stays as it is unless it is told to learn itself.
        rows: positions of the condition.
        condition: width of the condition.
        channels: of the UNet's levels; all but the first attend to the condition.
        heads: of that attention.
        blocks: residual blocks of a level.
        groups: of every norm.
        draws: strengths of noise under which each picture of a step is seen, as arXiv:2406.11838 does with what is
            costly to come by: four times.
    """

    modality = "image"
    implementation = "omniform.diffusion.codec_unet_module:CodecUnetModule"
    words = False

    guidance: float = 3.0
    steps: int = 25
    name: str = "Latent diffusion"
    codec: Codec
    rows: int = 4
    condition: int = 256
    channels: tuple[int, ...] = (128, 256, 256)
    heads: int = 4
    blocks: int = 2
    groups: int = 32
    draws: int = 1

    def __post_init__(self) -> None:
        if not self.codec.feature_dim or self.codec.modality != self.modality:
            raise SpecError(f"{self.codec.title} gives no map of a picture's features; use a codec that does")
        odd = [c for c in self.channels if c % self.groups]
        if odd or len(self.channels) < 2:
            raise SpecError(
                f"channels {odd or self.channels} of a UNet of two levels or more do not divide into {self.groups} "
                "groups; change channels or groups"
            )
        if any(c % self.heads for c in self.channels[1:]):
            raise SpecError(f"channels {self.channels[1:]} do not divide into {self.heads} heads; change one of them")
        if any(side % 2 ** (len(self.channels) - 1) for side in self.cells):
            raise SpecError(
                f"a UNet of {len(self.channels)} levels halves its map {len(self.channels) - 1} times, but the codec "
                f"has {self.cells[0]}x{self.cells[1]} cells; give fewer levels"
            )
        if self.draws < 1:
            raise SpecError(f"each picture is seen under {self.draws} strengths of noise; give at least one")

    @property
    def title(self) -> str:
        return self.name

    @property
    def first_stage(self) -> Codec:
        return self.codec

    @property
    def positions(self) -> int:
        return self.rows

    @property
    def width(self) -> int:
        return self.condition

    @property
    def size(self) -> Hw:
        rows, columns = self.codec.size
        return rows, columns

    @property
    def cells(self) -> Hw:
        """(rows, columns) of the map of features."""
        rows, columns = self.codec.cells(self.codec.size)
        return rows, columns

    @property
    def levels(self) -> list[Level]:
        """Of the UNet."""
        deep = (Level(width=c, depth=1, condition=self.condition) for c in self.channels[1:])
        return [Level(width=self.channels[0]), *deep]

    def unet_config(self) -> dict[str, Any]:
        """Arguments of diffusers' UNet."""
        return {
            **denoiser_config(self.codec.feature_dim, self.levels, self.blocks, self.groups), "sample_size": self.cells,
            "cross_attention_dim": self.condition, "attention_head_dim": self.heads,
            "class_embed_type": "projection", "projection_class_embeddings_input_dim": self.condition,
        }  # fmt: skip

    def num_params(self) -> int:
        """Parameters of the UNet, and the condition of no words."""
        first, time = self.channels[0], 4 * self.channels[0]
        step = (first + 1) * time + (self.condition + 1) * time + 2 * (time + 1) * time
        unet = params(denoiser((1, 1), self.codec.feature_dim, self.levels, self.blocks, time))
        return step + unet + self.rows * self.condition

    def learnable_params(self) -> int:
        return self.num_params()

    def shrunk(self, size: Shrunk) -> Self:
        codec = self.codec.shrunk(size)
        if size == "tiny":
            return self.but(
                codec=codec, rows=min(self.rows, 5), condition=12, channels=(8, 12), heads=2, blocks=1, groups=4,
                steps=2,
            )  # fmt: skip
        return self.but(codec=codec, condition=96, channels=(32, 64), heads=4, blocks=1, groups=16, steps=20)
