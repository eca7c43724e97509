"""DINOv2 vision transformers (arXiv:2304.07193)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omniform.encoders.vit import Vit
from omniform.geometry import Hw
from omniform.parts import Encoder, Shrunk, conv_flops, vit_flops

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class DinoV2(Vit):
    """Class token dropped; a learned scale on both branches of each layer.

    The module is ours, with the names of the released checkpoints: transformers renames DINOv2's parameters between
    the versions that this library works with, so that weights saved beside one would not load beside the other.

    Attributes:
        trained_image: side of the view whose positions the weights hold; for others they are interpolated bicubically.
        antialias: whether interpolation averages where the map shrinks.
        registers: learned tokens without positions between class token and patches (arXiv:2309.16588), dropped too.
        gated: whether the MLP is gated (SwiGLU), as in the giant model; `mlp_dim` is then the gate's width.
    """

    abstract = False
    implementation = "omniform.encoders.dinov2_module:DinoV2Module"
    released = (("", ""),)
    family: ClassVar[str] = "DINOv2 ViT-"
    class_token: ClassVar[bool] = True
    patch_bias: ClassVar[bool] = True

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    activation: str = "gelu"
    norm_eps: float = 1e-6
    trained_image: int | None = None
    antialias: bool = False
    registers: int = 0
    gated: bool = False

    @property
    def held_patches(self) -> int:
        """Patches whose positions the weights hold."""
        return ((self.trained_image or self.image) // self.patch) ** 2

    def layer_params(self) -> int:
        d, m = self.width, self.mlp_dim
        mlp = (d + 1) * 2 * m + (m + 1) * d if self.gated else (d + 1) * m + (m + 1) * d
        return 4 * (d * d + d) + mlp + 4 * d + 2 * d

    def idle_params(self) -> int:
        return super().idle_params() + self.width  # the mask token

    def num_params(self) -> int:
        d = self.width
        tokens = d + d + self.registers * d + (self.held_patches + 1) * d  # class, mask, registers, positions
        return 3 * self.patch**2 * d + d + tokens + self.layers * self.layer_params() + 2 * d * self.post_norm

    def flops(self, size: Hw) -> int:
        tokens = self.patches + 1 + self.registers
        return conv_flops(self.patches, self.patch, 3, self.width) + vit_flops(
            tokens, self.run_layers, self.width, self.mlp_dim
        )

    def shrunk(self, size: Shrunk) -> Encoder:  # type: ignore[override]  # as in `Vit`
        tiny = self.but(trained_image=self.trained_image and 36)
        return super(DinoV2, tiny).shrunk(size)


DINOV2_L_518 = DinoV2(width=1024, layers=24, heads=16, mlp_dim=4096, patch=14, image=518)
DINOV2_L_336 = DINOV2_L_518.but(image=336, trained_image=518)
# facebook/dinov2-with-registers-large; positions are interpolated as timm and transformers do for it
DINOV2_L_REG_384 = DINOV2_L_518.but(image=384, trained_image=518, registers=4, antialias=True)
