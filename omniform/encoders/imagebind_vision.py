"""The image tower of ImageBind (arXiv:2305.05665): one embedding in the space that all its modalities share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from omniform.encoders.clip import CLIP_MEAN, CLIP_STD
from omniform.frozen import FrozenMap
from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Encoder, Rules, Shrunk, conv_flops, vit_flops

SMALL: Mapping[Shrunk, Mapping[str, int]] = FrozenMap(
    tiny=FrozenMap(width=32, layers=2, heads=4, mlp_dim=64, patch=8, image=24, held_image=24, out_dim=24),
    nano=FrozenMap(width=128, layers=4, heads=4, mlp_dim=512, patch=8, image=64, held_image=64, out_dim=128),
)


@dataclass(frozen=True, kw_only=True)
class ImageBindVision(Encoder):
    """A vision transformer over pairs of frames; a still picture is shown twice.

    facebookresearch/ImageBind@53680b0 imagebind/models/imagebind_model.py:37-506: the class token after the last layer
    is normed, projected and scaled to unit length. Other modalities' embeddings are longer (audio 20).

    Attributes:
        frames: frames that one patch covers.
        held_image: side of the view whose positions the weights hold; for others they are interpolated bicubically.
        out_dim: width of the shared space.
        unit: scale the embedding to length one.
    """

    implementation = "omniform.encoders.imagebind_vision_module:ImageBindVisionModule"
    released: ClassVar[Rules] = (
        ("modality_preprocessors.vision.cls_token", "cls_token"),
        ("modality_preprocessors.vision.rgbt_stem.proj.1.", "patches."),
        ("modality_preprocessors.vision.pos_embedding_helper.pos_embed", "positions"),
        ("modality_trunks.vision.pre_transformer_layer.0.", "pre_norm."),
        ("modality_trunks.vision.blocks.", "blocks."),
        ("modality_heads.vision.0.", "norm."),
        ("modality_heads.vision.2.", "head."),
    )

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    width: int
    layers: int
    heads: int
    mlp_dim: int
    patch: int
    image: int
    held_image: int
    out_dim: int
    frames: int = 2
    norm_eps: float = 1e-6
    unit: bool = True

    @property
    def title(self) -> str:
        return "ImageBind"

    @property
    def dim(self) -> int:
        return self.out_dim

    @property
    def size(self) -> Hw:
        return self.image, self.image

    def cells(self, size: Hw) -> Grid:
        if size != self.size:
            raise SpecError(f"ImageBindVision reads {self.size} views, got {size}; use views that keep its size")
        return (1,)

    def layer_params(self) -> int:
        """Parameters of one layer."""
        d, m = self.width, self.mlp_dim
        return 4 * (d * d + d) + 2 * d * m + d + m + 4 * d

    def num_params(self) -> int:
        d = self.width
        held = (self.held_image // self.patch) ** 2
        embed = 3 * self.frames * self.patch**2 * d + d + (held + 1) * d + 2 * d
        return embed + self.layers * self.layer_params() + 2 * d + d * self.out_dim

    def flops(self, size: Hw) -> int:
        patches = (self.image // self.patch) ** 2
        stem = self.frames * conv_flops(patches, self.patch, 3, self.width)
        return stem + vit_flops(patches + 1, self.layers, self.width, self.mlp_dim) + 2 * self.width * self.out_dim

    def learnable_params(self, first_layer: int = 0) -> int:
        if not first_layer:
            return self.num_params()
        return max(self.layers - first_layer, 0) * self.layer_params()

    def shrunk(self, size: Shrunk) -> ImageBindVision:
        return self.but(**SMALL[size])


IMAGEBIND_HUGE = ImageBindVision(
    width=1280, layers=32, heads=16, mlp_dim=5120, patch=14, image=224, held_image=224, out_dim=1024
)
