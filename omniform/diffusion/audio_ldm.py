"""AudioLDM: latent diffusion of spectrograms steered by one embedding of CLAP's text encoder (arXiv:2301.12503)."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Literal, Self

from omniform.diffusion.stable_diffusion import BYTES, OLD
from omniform.geometry import Hw, SpecError
from omniform.latent import Level, coder_config, coder_params, denoiser, denoiser_config, params
from omniform.parts import Shrunk
from omniform.writing import Diffusion


@dataclass(frozen=True, kw_only=True)
class AudioLdm(Diffusion):
    """A UNet over the latents of a spectrogram, whose condition stands beside the step's embedding, and a vocoder.

    Sizes are those of huggingface/diffusers@01f9ade scripts/convert_original_audioldm_to_diffusers.py; the condition is
    the text encoder's projection at unit length.

    Attributes:
        name: what the field calls it.
        seconds: of its sounds.
        rate: samples a second.
        channels: of the UNet's levels; all but the first attend, to the latents alone.
        heads: of that attention.
        blocks: residual blocks of a level of the UNet, and of the autoencoder.
        groups: of every norm.
        vae_channels: of the autoencoder's levels; each but the last halves the spectrogram.
        latent: channels of a latent.
        scale: latents are multiplied by it; released directories hold their own.
        mels: bands of the spectrogram.
        text_width, text_layers, text_heads, text_mlp, text_positions: of the text encoder.
        shared: width of the embedding.
        vocab: of the text encoder.
        tokens: "released": those of the directory it is loaded from; "bytes": bytes.
        voice: channels that the vocoder begins with, halved at each of its `rates`.
        rates, kernels: by how much the vocoder lengthens, and over how many samples.
        voice_kernels: of the vocoder's residual blocks.
    """

    modality = "audio"
    implementation = "omniform.diffusion.audio_ldm_module:AudioLdmModule"
    released = (
        *OLD, ("unet/", "unet."), ("vae/", "vae."), ("text_encoder/", "text_encoder."), ("vocoder/", "vocoder."),
    )  # fmt: skip

    guidance: float = 2.5
    steps: int = 10
    name: str = "AudioLDM"
    seconds: float = 5.12
    rate: int = 16000
    channels: tuple[int, ...] = (256, 512, 768, 1280)
    heads: int = 8
    blocks: int = 2
    groups: int = 32
    vae_channels: tuple[int, ...] = (128, 256, 512)
    latent: int = 8
    scale: float = 1.0
    mels: int = 64
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_mlp: int = 3072
    text_positions: int = 512
    shared: int = 512
    vocab: int = 50265
    tokens: Literal["released", "bytes"] = "released"
    voice: int = 1024
    rates: tuple[int, ...] = (5, 4, 2, 2, 2)
    kernels: tuple[int, ...] = (16, 16, 8, 4, 4)
    voice_kernels: tuple[int, ...] = (3, 7, 11)

    def __post_init__(self) -> None:
        odd = [c for c in (*self.channels, *self.vae_channels) if c % self.groups]
        if odd:
            raise SpecError(f"channels {odd} do not divide into {self.groups} groups; change channels or groups")
        if len(self.rates) != len(self.kernels):
            raise SpecError(f"vocoder rates {self.rates}, kernels {self.kernels}: give as many of each")
        if self.seconds * self.rate < self.hop * self.stride:
            raise SpecError(f"{self.seconds} seconds at {self.rate} are no column of latents; make it longer")

    @property
    def title(self) -> str:
        return self.name

    @property
    def positions(self) -> int:
        return 1

    @property
    def width(self) -> int:
        return self.shared

    @property
    def hop(self) -> int:
        """Samples of one column of the spectrogram."""
        return prod(self.rates)

    @property
    def stride(self) -> int:
        """Columns of the spectrogram of one latent."""
        return 2 ** (len(self.vae_channels) - 1)

    @property
    def size(self) -> Hw:
        return 1, int(self.seconds * self.rate)

    @property
    def levels(self) -> list[Level]:
        """Of the UNet."""
        return [Level(width=self.channels[0]), *(Level(width=c, depth=1) for c in self.channels[1:])]

    # -- configurations of diffusers and transformers --

    def unet_config(self) -> dict[str, Any]:
        """Arguments of the UNet."""
        return {
            **denoiser_config(self.latent, self.levels, self.blocks, self.groups),
            "sample_size": ceil(self.size[1] / self.hop / self.stride),
            "cross_attention_dim": self.channels, "attention_head_dim": self.heads,
            "class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": self.shared,
            "class_embeddings_concat": True,
        }  # fmt: skip

    def vae_config(self) -> dict[str, Any]:
        """Arguments of the autoencoder."""
        config = coder_config(1, self.latent, self.vae_channels, self.blocks, self.groups)
        return {**config, "scaling_factor": self.scale}

    def text_config(self) -> dict[str, Any]:
        """Arguments of the text encoder, which counts positions from 2 on."""
        return {
            "hidden_size": self.text_width, "num_hidden_layers": self.text_layers, "projection_dim": self.shared,
            "num_attention_heads": self.text_heads, "intermediate_size": self.text_mlp, "vocab_size": self.vocab,
            "max_position_embeddings": self.text_positions + 2,
        }  # fmt: skip

    def vocoder_config(self) -> dict[str, Any]:
        """Arguments of the vocoder."""
        return {
            "model_in_dim": self.mels, "sampling_rate": self.rate, "upsample_initial_channel": self.voice,
            "upsample_rates": list(self.rates), "upsample_kernel_sizes": list(self.kernels),
            "resblock_kernel_sizes": list(self.voice_kernels), "normalize_before": False,
            "resblock_dilation_sizes": [[1, 3, 5]] * len(self.voice_kernels),
        }  # fmt: skip

    def scheduler_config(self) -> dict[str, Any]:
        """Arguments of the noise schedule."""
        return {
            "num_train_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear",
            "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False,
        }  # fmt: skip

    # -- cost --

    def num_params(self) -> int:
        return self.unet_params() + self.vae_params() + self.text_params() + self.vocoder_params()

    def learnable_params(self) -> int:
        return self.unet_params()

    def unet_params(self) -> int:
        """Parameters of the UNet."""
        first, time = self.channels[0], 4 * self.channels[0]
        step = (first + 1) * time + (time + 1) * time + (self.shared + 1) * time
        return step + params(denoiser((1, 1), self.latent, self.levels, self.blocks, 2 * time))

    def vae_params(self) -> int:
        """Parameters of the autoencoder."""
        return coder_params(1, self.latent, self.vae_channels, self.blocks)

    def text_params(self) -> int:
        """Parameters of the text encoder, pooler and projection included."""
        d, m, out = self.text_width, self.text_mlp, self.shared
        layer = 4 * (d + 1) * d + (d + 1) * m + (m + 1) * d + 4 * d
        rows = self.vocab + self.text_positions + 2 + 1
        return rows * d + 2 * d + self.text_layers * layer + (d + 1) * d + (d + 1) * out + (out + 1) * out

    def vocoder_params(self) -> int:
        """Parameters of the vocoder: six convolutions in each residual block."""
        total, channels = 7 * self.mels * self.voice + self.voice, self.voice
        for kernel in self.kernels:
            total += kernel * channels * (channels // 2) + channels // 2
            channels //= 2
            total += sum(6 * (k * channels * channels + channels) for k in self.voice_kernels)
        return total + 7 * channels + 1

    def shrunk(self, size: Shrunk) -> Self:
        """Small networks that read bytes and make sounds of a few hundredths of a second."""
        common: dict[str, Any] = {
            "vocab": BYTES, "tokens": "bytes", "text_positions": 77, "groups": 4, "blocks": 1, "rates": (4, 4),
            "kernels": (8, 8), "voice_kernels": (3,), "mels": 8,
        }  # fmt: skip
        if size == "tiny":
            return self.but(
                **common, channels=(8, 12), heads=2, vae_channels=(4, 8), latent=2, text_width=12, text_layers=1,
                text_heads=2, text_mlp=16, shared=12, voice=8, seconds=0.02, steps=2,
            )  # fmt: skip
        return self.but(
            **common, channels=(32, 64), heads=4, vae_channels=(16, 32), latent=4, text_width=64, text_layers=2,
            text_heads=4, text_mlp=128, shared=64, voice=32, seconds=0.1, steps=20,
        )  # fmt: skip


AUDIO_LDM_L = AudioLdm()
"""cvssp/audioldm-l-full."""
AUDIO_LDM_S = AudioLdm(channels=(128, 256, 384, 640))
"""cvssp/audioldm-s-full-v2."""
