"""Module of `diffusion.audio_ldm`: the networks, and diffusers' pipeline that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import AudioLDMPipeline, AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn
from transformers import ClapTextConfig, ClapTextModelWithProjection, SpeechT5HifiGan, SpeechT5HifiGanConfig

from omniform.diffusion.audio_ldm import AudioLdm
from omniform.diffusion.pipeline_module import made_by
from omniform.diffusion.words_module import Bytes, Missing, Released, Words

PADDING = 1
"""Id of the released tokenizer that fills texts up, and that attention does not see."""
Sound = tuple[npt.NDArray[np.float32], int]
"""Samples of one channel, and samples a second."""


class AudioLdmModule(nn.Module):
    """Condition -> sound; words -> condition."""

    def __init__(self, spec: AudioLdm) -> None:
        super().__init__()
        self.spec = spec
        self.unet: Any = UNet2DConditionModel(**spec.unet_config())
        self.vae: Any = AutoencoderKL(**spec.vae_config())
        self.text_encoder: Any = ClapTextModelWithProjection(ClapTextConfig(**spec.text_config()))
        self.vocoder: Any = SpeechT5HifiGan(SpeechT5HifiGanConfig(**spec.vocoder_config()))
        self.words: Words = Bytes(spec.text_positions) if spec.tokens == "bytes" else Missing(spec.title)
        self.scheduler: Any = DDIMScheduler(**spec.scheduler_config())

    def settle(self, folder: Path) -> None:
        """Take what a directory of weights holds besides tensors: the tokenizer, and the scale of its latents.

        Where it holds tensors alone, the declared scale stands.
        """
        if self.spec.tokens == "released":
            self.words = Released.of(folder, self.spec.text_positions)
        if (folder / "vae" / "config.json").is_file():
            self.vae.register_to_config(scaling_factor=AutoencoderKL.load_config(folder / "vae")["scaling_factor"])

    def idle(self) -> tuple[str, ...]:
        """Prefixes of what does not learn."""
        return "vae.", "text_encoder.", "vocoder."

    def condition(self, texts: Sequence[str]) -> Float[Tensor, "texts 1 width"]:
        """The text encoder's embedding, scaled to length one."""
        ids = self.words(texts).to(self.unet.device)
        found = self.text_encoder(ids, attention_mask=ids.ne(PADDING).long()).text_embeds
        return F.normalize(found, dim=-1)[:, None]

    def noise_loss(self, condition: Float[Tensor, "media 1 width"], views: Tensor) -> Float[Tensor, " media"]:
        """None: what it tells noise of are spectrograms, and views are waveforms.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self.spec.title} tells the noise of spectrograms, but views are {tuple(views.shape)} samples; train its "
            "condition with losses 'distance', 'squares' or 'cosine'"
        )

    @torch.no_grad()
    def render(
        self,
        condition: Float[Tensor, "media 1 width"],
        nothing: Float[Tensor, "media 1 width"],
        random: torch.Generator,
        guidance: float,
        steps: int,
    ) -> list[Sound]:
        """Sounds of conditions; arguments as for pictures."""
        pipeline: Any = AudioLDMPipeline(
            vae=self.vae, text_encoder=self.text_encoder, tokenizer=None, unet=self.unet, scheduler=self.scheduler,
            vocoder=self.vocoder,
        )  # fmt: skip
        rows, seconds = (condition[:, 0], nothing[:, 0]), self.spec.seconds
        made = made_by(pipeline, *rows, random, guidance, steps, audio_length_in_s=seconds)
        return [(np.asarray(sound, dtype=np.float32), self.spec.rate) for sound in made.audios]
