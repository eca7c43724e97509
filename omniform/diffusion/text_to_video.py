"""Text-to-video diffusion: Stable Diffusion with layers over time (ModelScope, arXiv:2308.06571), by diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from omniform.diffusion.stable_diffusion import StableDiffusion
from omniform.geometry import Hw, SpecError
from omniform.latent import residuals
from omniform.parts import Shrunk


@dataclass(frozen=True, kw_only=True)
class TextToVideo(StableDiffusion):
    """A UNet over the latents of all frames, with convolutions and attention over time behind those over space.

    huggingface/diffusers@v0.30.0 src/diffusers/models/unets/unet_3d_condition.py. Heads are 64, of c / 64 channels
    each, as the released configurations have it.

    Attributes:
        rows, columns: of a frame, in pixels.
        frames: of a video.
    """

    modality = "video"
    implementation = "omniform.diffusion.text_to_video_module:TextToVideoModule"

    name: str = "Zeroscope"
    heads: tuple[int, ...] = (64,)
    text_width: int = 1024
    text_layers: int = 23
    text_heads: int = 16
    text_mlp: int = 4096
    activation: str = "gelu"
    rows: int = 320
    columns: int = 576
    frames: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows % self.stride or self.columns % self.stride or self.frames < 1:
            raise SpecError(
                f"{self.frames} frames of {self.rows}x{self.columns} pixels: sides must divide into latents of "
                f"{self.stride} pixels"
            )

    @property
    def size(self) -> Hw:
        return self.rows, self.columns

    def unet_config(self) -> dict[str, Any]:
        flat = super().unet_config()
        names = {name: tuple(kind.replace("2D", "3D") for kind in flat[name]) for name in KINDS}
        kept = {name: value for name, value in flat.items() if name != "use_linear_projection"}
        return {**kept, **names, "attention_head_dim": self.heads[0]}

    def unet_params(self) -> int:
        blocks = [*residuals(self.channels, self.blocks), (self.channels[-1],) * 2, (self.channels[-1],) * 2]
        attended = [c for c in self.channels[:-1] for _ in range(2 * self.blocks + 1)] + [self.channels[-1]]
        over_time = sum(_temporal_convs(c) for _, c in blocks) + sum(_temporal_attention(c, c) for c in attended)
        return super().unet_params() + over_time + _temporal_attention(self.channels[0], 8 * self.heads[0])

    def shrunk(self, size: Shrunk) -> Self:
        small = super().shrunk(size)
        if size == "tiny":
            return small.but(rows=16, columns=24, frames=3)
        return small.but(rows=32, columns=48, frames=4)


KINDS = ("down_block_types", "up_block_types")


def _temporal_convs(c: int) -> int:
    """Four norms and convolutions over three frames."""
    return 4 * (2 * c + 3 * c * c + c)


def _temporal_attention(c: int, inner: int) -> int:
    """Two attentions of frames to frames and an MLP, between two projections."""
    attention, mlp = 4 * inner * inner + inner, (inner + 1) * 8 * inner + (4 * inner + 1) * inner
    return 2 * c + (c + 1) * inner + (inner + 1) * c + 2 * attention + mlp + 6 * inner


ZEROSCOPE_576W = TextToVideo()
"""cerspense/zeroscope_v2_576w."""
