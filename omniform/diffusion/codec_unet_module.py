"""Module of `diffusion.codec_unet`: diffusers' UNet and its scheduler, on the features of a codec that is lent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from omniform.diffusion.codec_unet import CodecUnet

TIMES = 1000
"""What the UNet calls pure noise."""


class CodecUnetModule(nn.Module):
    """Condition -> picture.

    Features are seen about zero and with variance one, as the first batch that is learned has it (arXiv:2112.10752
    appendix G): `mean` of each channel, `scale` of all.

    Args:
        codec: makes features of pictures, and pictures of the codes nearest to features.
    """

    def __init__(self, spec: CodecUnet, codec: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self._codec = (codec,)  # in a tuple it is no submodule
        self.unet: Any = UNet2DConditionModel(**spec.unet_config())
        self.nothing = nn.Parameter(torch.randn(1, spec.rows, spec.condition) * spec.condition**-0.5)
        self.mean: Tensor
        self.scale: Tensor
        self.measured: Tensor
        self.register_buffer("mean", torch.zeros(spec.codec.feature_dim, 1, 1))
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("measured", torch.zeros(1, dtype=torch.bool))

    @property
    def codec(self) -> Any:
        """The first stage."""
        return self._codec[0]

    def settle(self, folder: Path) -> None:
        """A directory of weights holds nothing else that counts."""

    def idle(self) -> tuple[str, ...]:
        """Prefixes of what does not learn: everything of its own does."""
        return ()

    def condition(self, texts: Sequence[str]) -> Float[Tensor, "texts positions width"]:
        """The learned condition of no words.

        Raises:
            ValueError: there are words.
        """
        words = next((text for text in texts if text), None)
        if words is not None:
            raise ValueError(f"{self.spec.title} reads no words, such as {words!r}; its condition is made by a head")
        return self.nothing.expand(len(texts), -1, -1)

    @torch.no_grad()
    def latents(self, views: UInt8[Tensor, "media 3 rows columns"]) -> Float[Tensor, "media latent lower narrower"]:
        """Pictures as the UNet sees them."""
        features = self.codec.features(self.codec.normalise(views.to(self.mean.device))).float()
        if self.training and not self.measured:
            self.mean.copy_(features.mean((0, 2, 3)).view_as(self.mean))
            self.scale.copy_((features - self.mean).square().mean().rsqrt())
            self.measured.fill_(True)
        return (features - self.mean) * self.scale

    def noise_loss(
        self, condition: Float[Tensor, "media positions width"], views: UInt8[Tensor, "media 3 rows columns"]
    ) -> Float[Tensor, " media"]:
        """Mean squared error of the velocity from features to noise, for each picture.

        Strengths of noise are those of a normal number's sigmoid (arXiv:2403.03206 section 3.1).
        """
        draws = self.spec.draws
        latents, given = (x.repeat_interleave(draws, 0) for x in (self.latents(views), condition))
        strength = torch.randn(len(latents), device=latents.device).sigmoid()
        noise, share = torch.randn_like(latents), strength[:, None, None, None]
        told = self._velocity(latents + share * (noise - latents), strength * TIMES, given)
        return (told - (noise - latents)).square().flatten(1).mean(1).unflatten(0, (-1, draws)).mean(1)

    def _velocity(
        self, noisy: Float[Tensor, "n latent h w"], times: Float[Tensor, " n"], given: Float[Tensor, "n rows width"]
    ) -> Float[Tensor, "n latent h w"]:
        told = self.unet(noisy.to(self.unet.dtype), times, given, class_labels=given.mean(1))
        return told.sample.float()

    @torch.no_grad()
    def render(
        self,
        condition: Float[Tensor, "media positions width"],
        nothing: Float[Tensor, "1 positions width"],
        random: torch.Generator,
        guidance: float,
        steps: int,
    ) -> list[Image.Image]:
        """Pictures of conditions.

        Args:
            nothing: condition that guidance leads away from.
            random: noise that the paths start from; on the CPU, so that it is the same on any device.
        """
        codec, both = self.spec.codec, torch.cat([nothing.expand_as(condition), condition])
        made = torch.randn(len(condition), codec.feature_dim, *self.spec.cells, generator=random).to(self.mean.device)
        scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMES)
        scheduler.set_timesteps(steps)
        for time in scheduler.timesteps:
            away, toward = self._velocity(made.repeat(2, 1, 1, 1), time.expand(len(both)).to(made.device), both).chunk(
                2
            )
            made = scheduler.step(away + guidance * (toward - away), time, made).prev_sample
        return [self.codec.render(codes) for codes in self.codec.nearest(made / self.scale + self.mean)]
