"""Stable Diffusion: latents denoised under a CLIP text encoder's hidden states (arXiv:2112.10752), by diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from omniform.geometry import Hw, SpecError
from omniform.latent import Level, coder_config, coder_params, denoiser, denoiser_config, params
from omniform.parts import Rules, Shrunk
from omniform.writing import Diffusion

BYTES = 258
"""Ids of a text encoder that reads bytes: those, begin, end."""


OLD_NAMES = (("query.", "to_q."), ("key.", "to_k."), ("value.", "to_v."), ("proj_attn.", "to_out.0."))
"""What the autoencoder's attention was called when the first versions were released -> what diffusers calls it now."""
OLD: Rules = tuple(
    (f"vae/{half}.mid_block.attentions.0.{a}", f"vae.{half}.mid_block.attentions.0.{b}")
    for half in ("encoder", "decoder")
    for a, b in OLD_NAMES
)
RULES: Rules = (
    *OLD,
    ("unet/", "unet."),
    ("vae/", "vae."),
    ("text_encoder/text_model.", "text_encoder."),
    ("text_encoder/", "text_encoder."),
)


@dataclass(frozen=True, kw_only=True)
class StableDiffusion(Diffusion):
    """A UNet over the latents of a convolutional autoencoder.

    Attributes:
        name: what the field calls it.
        image: side of its pictures, in pixels.
        channels: of the UNet's levels; all but the last attend to the condition.
        heads: of the attention of each level of the UNet, or of all.
        linear: whether its attention is entered and left through linear layers, not 1x1 convolutions.
        blocks: residual blocks of a level of the UNet.
        groups: of every norm.
        vae_channels: of the autoencoder's levels; each but the last halves the picture.
        vae_blocks: residual blocks of a level of the autoencoder's encoder.
        latent: channels of a latent.
        text_width, text_layers, text_heads, text_mlp, text_positions: of the text encoder.
        activation: of the text encoder.
        vocab: of the text encoder.
        tokens: "released": those of the directory it is loaded from; "bytes": bytes.
        prediction: what the UNet tells: the noise, or the velocity (arXiv:2202.00512 section 2.4).
    """

    modality = "image"
    implementation = "omniform.diffusion.stable_diffusion_module:StableDiffusionModule"
    released = RULES

    guidance: float = 7.5
    steps: int = 50
    name: str = "SD"
    image: int = 512
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    heads: tuple[int, ...] = (8,)
    linear: bool = False
    blocks: int = 2
    groups: int = 32
    vae_channels: tuple[int, ...] = (128, 256, 512, 512)
    vae_blocks: int = 2
    latent: int = 4
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_mlp: int = 3072
    text_positions: int = 77
    activation: str = "quick_gelu"
    vocab: int = 49408
    tokens: Literal["released", "bytes"] = "released"
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"

    def __post_init__(self) -> None:
        odd = [c for c in (*self.channels, *self.vae_channels) if c % self.groups]
        if odd:
            raise SpecError(f"channels {odd} do not divide into {self.groups} groups; change channels or groups")
        if len(self.heads) not in (1, len(self.channels)):
            raise SpecError(f"heads {self.heads} for {len(self.channels)} levels; give one number, or one each")
        if self.image % self.stride:
            raise SpecError(f"pictures of side {self.image} do not divide into latents of {self.stride} pixels")

    @property
    def title(self) -> str:
        return self.name

    @property
    def positions(self) -> int:
        return self.text_positions

    @property
    def width(self) -> int:
        return self.text_width

    @property
    def size(self) -> Hw:
        return self.image, self.image

    @property
    def stride(self) -> int:
        """Pixels that a latent stands for, on each side; the UNet halves them further."""
        return 2 ** (len(self.vae_channels) + len(self.channels) - 2)

    @property
    def levels(self) -> list[Level]:
        """Of the UNet."""
        depths = [1] * (len(self.channels) - 1) + [0]
        pairs = zip(self.channels, depths, strict=True)
        return [Level(width=c, depth=depth, condition=self.width) for c, depth in pairs]

    # -- configurations of diffusers and transformers --

    def unet_config(self) -> dict[str, Any]:
        """Arguments of the UNet."""
        return {
            **denoiser_config(self.latent, self.levels, self.blocks, self.groups),
            "sample_size": self.image // 2 ** (len(self.vae_channels) - 1),
            "cross_attention_dim": self.width, "use_linear_projection": self.linear,
            "attention_head_dim": self.heads * (len(self.channels) // len(self.heads)),
        }  # fmt: skip

    def vae_config(self) -> dict[str, Any]:
        """Arguments of the autoencoder."""
        config = coder_config(3, self.latent, self.vae_channels, self.vae_blocks, self.groups)
        return {**config, "sample_size": self.image}

    def text_config(self) -> dict[str, Any]:
        """Arguments of the text encoder; begin and end are the last two ids."""
        return {
            "hidden_size": self.text_width, "num_hidden_layers": self.text_layers, "hidden_act": self.activation,
            "num_attention_heads": self.text_heads, "intermediate_size": self.text_mlp, "vocab_size": self.vocab,
            "max_position_embeddings": self.text_positions, "projection_dim": self.text_width,
            "bos_token_id": self.vocab - 2, "eos_token_id": self.vocab - 1, "pad_token_id": self.vocab - 1,
        }  # fmt: skip

    def scheduler_config(self) -> dict[str, Any]:
        """Arguments of the noise schedule (CompVis/stable-diffusion@21f890f configs/stable-diffusion)."""
        return {
            "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "prediction_type": self.prediction,
        }  # fmt: skip

    # -- cost --

    def num_params(self) -> int:
        return self.unet_params() + self.vae_params() + self.text_params()

    def learnable_params(self) -> int:
        return self.unet_params()

    def unet_params(self) -> int:
        """Parameters of the UNet."""
        first, time = self.channels[0], 4 * self.channels[0]
        step = (first + 1) * time + (time + 1) * time
        return step + params(denoiser((1, 1), self.latent, self.levels, self.blocks, time))

    def vae_params(self) -> int:
        """Parameters of the autoencoder."""
        return coder_params(3, self.latent, self.vae_channels, self.vae_blocks)

    def text_params(self) -> int:
        """Parameters of the text encoder."""
        d, m = self.text_width, self.text_mlp
        layer = 4 * (d + 1) * d + (d + 1) * m + (m + 1) * d + 4 * d
        return (self.vocab + self.text_positions) * d + self.text_layers * layer + 2 * d

    def shrunk(self, size: Shrunk) -> Self:
        """Small networks that read bytes, as many positions of them."""
        common: dict[str, Any] = {"vocab": BYTES, "tokens": "bytes", "groups": 4, "blocks": 1, "vae_blocks": 1}
        if size == "tiny":
            return self.but(
                **common, image=16, channels=(8, 12), heads=(2,), vae_channels=(4, 8), text_width=12, text_layers=1,
                text_heads=2, text_mlp=16, steps=2,
            )  # fmt: skip
        return self.but(
            **common, image=32, channels=(32, 64, 64), heads=(4,), vae_channels=(16, 32), text_width=64, text_layers=2,
            text_heads=4, text_mlp=128, steps=20,
        )  # fmt: skip


STABLE_DIFFUSION_1_5 = StableDiffusion()
STABLE_DIFFUSION_2_1 = StableDiffusion(
    image=768, heads=(5, 10, 20, 20), linear=True, text_width=1024, text_layers=23, text_heads=16, text_mlp=4096,
    activation="gelu", prediction="v_prediction",
)  # fmt: skip
