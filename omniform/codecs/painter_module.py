"""Module of `codecs.painter`; parameter names are diffusers'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn

from omniform.codecs.painter import LATENT, Painter
from omniform.geometry import Grid, SpecError

NOISES = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip
"""The noise that Stable Diffusion was trained with (stabilityai/stable-diffusion-xl-base-1.0 scheduler)."""


@dataclass(frozen=True)
class Condition:
    """What a picture is painted from.

    Attributes:
        pooled: the vector beside the rows, for painters that read one.
        held: rows that count; None is all.
    """

    rows: Float[Tensor, "n rows width"]
    pooled: Float[Tensor, "n pooled"] | None = None
    held: Bool[Tensor, "n rows"] | None = None


class PainterModule(nn.Module):
    """Condition -> pictures; what is random in a picture follows from its seed."""

    def __init__(self, spec: Painter) -> None:
        super().__init__()
        self.spec = spec
        self.unet = UNet2DConditionModel(**spec.denoiser_config())
        self.vae = AutoencoderKL(**spec.coder_config())
        if spec.empty:
            self.empty = nn.Parameter(torch.randn(1, spec.empty, spec.condition))

    def nothing(self, condition: Condition) -> Condition:
        """The condition of no condition, with as many rows.

        Raises:
            SpecError: fewer rows than what stands for none has.
        """
        rows = torch.zeros_like(condition.rows)
        pooled = None if condition.pooled is None else torch.zeros_like(condition.pooled)
        if not self.spec.empty:
            return Condition(rows, pooled)
        if rows.shape[1] < self.spec.empty:
            raise SpecError(f"{rows.shape[1]} rows of a condition, but {self.spec.empty} rows stand for none")
        rows[:, : self.spec.empty] = self.empty
        held = torch.arange(rows.shape[1], device=rows.device) < self.spec.empty
        return Condition(rows, pooled, held.expand(len(rows), -1))

    def predict(
        self, latents: Float[Tensor, "n latent h w"], step: Any, condition: Condition, extent: Grid
    ) -> Float[Tensor, "n latent h w"]:
        """The noise in latents of pictures of (height, width)."""
        more: dict[str, Any] = {}
        if self.spec.pooled:
            sizes = torch.tensor([[*extent, 0, 0, *extent]], device=latents.device, dtype=condition.rows.dtype)
            more = {"added_cond_kwargs": {"text_embeds": condition.pooled, "time_ids": sizes.repeat(len(latents), 1)}}
        unet: Any = self.unet
        return unet(latents, step, condition.rows, encoder_attention_mask=condition.held, **more).sample

    def guided(
        self, latents: Float[Tensor, "n latent h w"], step: Any, condition: Condition, extent: Grid
    ) -> Float[Tensor, "n latent h w"]:
        """The noise, away from what would be there without the condition."""
        poor = self.predict(latents, step, self.nothing(condition), extent)
        rich = self.predict(latents, step, condition, extent)
        return poor + self.spec.guidance * (rich - poor)

    @torch.no_grad()
    def paint(self, condition: Condition, extent: Grid, seeds: Sequence[int]) -> Float[Tensor, "n 3 height width"]:
        """Pictures of (height, width), about -1 to 1."""
        scheduler: Any = DDIMScheduler(**NOISES)
        scheduler.set_timesteps(self.spec.steps)
        like, cells = condition.rows, self.spec.latent(extent)
        noises = (torch.randn(LATENT, *cells, generator=torch.Generator().manual_seed(seed)) for seed in seeds)
        latents = torch.stack(list(noises)).to(like) * scheduler.init_noise_sigma
        for step in scheduler.timesteps:
            noise = self.guided(scheduler.scale_model_input(latents, step), step.to(like.device), condition, extent)
            latents = scheduler.step(noise, step, latents).prev_sample
        return self.decoded(latents)[:, :, : extent[0], : extent[1]]

    def decoded(self, latents: Float[Tensor, "n latent h w"]) -> Float[Tensor, "n 3 height width"]:
        """Pictures of latents; the autoencoder, which overflows in half precision, is in float32 from here on."""
        vae: Any = self.vae
        return vae.float().decode(latents.float() / self.spec.scale).sample


def pictures(pixels: Float[Tensor, "n 3 height width"]) -> list[Image.Image]:
    """8-bit pictures of pixels about -1 to 1, rounded."""
    bytes_ = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(one.permute(1, 2, 0).cpu().numpy(), "RGB") for one in bytes_]
