"""Module of `diffusion.stable_diffusion`: the networks, and diffusers' pipeline that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging

from omniform.diffusion.pipeline_module import made_by
from omniform.diffusion.stable_diffusion import StableDiffusion
from omniform.diffusion.words_module import Bytes, Missing, Released, Words


class StableDiffusionModule(nn.Module):
    """Condition -> picture; words -> condition."""

    network: ClassVar[Any] = UNet2DConditionModel

    def __init__(self, spec: StableDiffusion) -> None:
        super().__init__()
        self.spec: Any = spec
        self.unet: Any = self.network(**spec.unet_config())
        self.vae: Any = AutoencoderKL(**spec.vae_config())
        self.text_encoder: Any = CLIPTextModel(CLIPTextConfig(**spec.text_config()))
        self.words: Words = Bytes(spec.positions) if spec.tokens == "bytes" else Missing(spec.title)
        self.scheduler: Any = PNDMScheduler(**spec.scheduler_config(), skip_prk_steps=True, steps_offset=1)
        self.noise: Any = DDPMScheduler(**spec.scheduler_config())

    def settle(self, folder: Path) -> None:
        """Take what a directory of weights holds besides tensors: the tokenizer."""
        if self.spec.tokens == "released":
            self.words = Released.of(folder, self.spec.positions)

    def idle(self) -> tuple[str, ...]:
        """Prefixes of what does not learn."""
        return "vae.", "text_encoder."

    def condition(self, texts: Sequence[str]) -> Float[Tensor, "texts positions width"]:
        """What the text encoder gives: its last hidden states, normed."""
        return self.text_encoder(self.words(texts).to(self.unet.device))[0]

    def latents(self, views: UInt8[Tensor, "media 3 rows columns"]) -> Float[Tensor, "media latent lower narrower"]:
        """Pictures as the UNet sees them: the mean that the autoencoder gives, scaled."""
        pixels = views.to(self.unet.device, self.unet.dtype) / 127.5 - 1
        return self.vae.encode(pixels).latent_dist.mean * self.vae.config.scaling_factor

    def noise_loss(
        self, condition: Float[Tensor, "media positions width"], views: UInt8[Tensor, "views 3 rows columns"]
    ) -> Float[Tensor, " media"]:
        """Mean squared error of what the UNet tells of pictures under noise of random strength, for each picture."""
        with torch.no_grad():
            latents = self.latents(views)
        steps = torch.randint(0, self.noise.config.num_train_timesteps, latents.shape[:1], device=latents.device)
        noise = torch.randn_like(latents)
        told = self.unet(self.noise.add_noise(latents, noise, steps), steps, condition).sample
        wanted = noise if self.spec.prediction == "epsilon" else self.noise.get_velocity(latents, noise, steps)
        return F.mse_loss(told, wanted, reduction="none").flatten(1).mean(1)

    @torch.no_grad()
    def render(
        self,
        condition: Float[Tensor, "media positions width"],
        nothing: Float[Tensor, "media positions width"],
        random: torch.Generator,
        guidance: float,
        steps: int,
    ) -> list[Any]:
        """Pictures of conditions.

        Args:
            nothing: condition that guidance leads away from.
            random: noise that denoising starts from; on the CPU, so that it is the same on any device.
        """
        pipeline = _pipeline()(
            vae=self.vae, text_encoder=self.text_encoder, tokenizer=None, unet=self.unet, scheduler=self.scheduler,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        return made_by(pipeline, condition, nothing, random, guidance, steps).images


def _pipeline() -> Any:
    """The pipeline's class; importing it makes transformers warn of processors that are not used here."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        from diffusers import StableDiffusionPipeline
    finally:
        logging.set_verbosity(level)
    return StableDiffusionPipeline
