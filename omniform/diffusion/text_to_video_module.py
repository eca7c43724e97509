"""Module of `diffusion.text_to_video`: the networks, and diffusers' pipeline that runs them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from omniform.diffusion.pipeline_module import made_by
from omniform.diffusion.stable_diffusion_module import StableDiffusionModule
from omniform.diffusion.text_to_video import TextToVideo


class TextToVideoModule(StableDiffusionModule):
    """Condition -> frames; words -> condition."""

    network = UNet3DConditionModel

    def __init__(self, spec: TextToVideo) -> None:
        super().__init__(spec)
        self.scheduler: Any = DDIMScheduler(
            **spec.scheduler_config(), steps_offset=1, clip_sample=False, set_alpha_to_one=False
        )

    def latents(self, views: UInt8[Tensor, "frames 3 rows columns"]) -> Float[Tensor, "media latent each lower narrow"]:
        """Videos as the UNet sees them; as many frames each as it makes."""
        flat = super().latents(views)
        return flat.unflatten(0, (-1, self.spec.frames)).transpose(1, 2)

    @torch.no_grad()
    def render(
        self,
        condition: Float[Tensor, "media positions width"],
        nothing: Float[Tensor, "media positions width"],
        random: torch.Generator,
        guidance: float,
        steps: int,
    ) -> list[list[Image.Image]]:
        """Videos of conditions, each its frames; arguments as for pictures."""
        pipeline: Any = TextToVideoSDPipeline(
            vae=self.vae, text_encoder=self.text_encoder, tokenizer=None, unet=self.unet, scheduler=self.scheduler
        )
        size = {"height": self.spec.rows, "width": self.spec.columns, "num_frames": self.spec.frames}
        return made_by(pipeline, condition, nothing, random, guidance, steps, **size, output_type="pil").frames
