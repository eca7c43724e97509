"""The image tower of ImageBind (arXiv:2305.05665): one embedding in the space that all its modalities share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from omniform.encoders.clip import CLIP_MEAN, CLIP_STD
from omniform.encoders.imagebind import ImageBindTower, tower_rules
from omniform.frozen import FrozenMap
from omniform.geometry import Hw
from omniform.parts import Shrunk, conv_flops

SMALL: Mapping[Shrunk, Mapping[str, int]] = FrozenMap(
    tiny=FrozenMap(width=32, layers=2, heads=4, mlp_dim=64, patch=8, image=24, held_image=24, out_dim=24),
    nano=FrozenMap(width=128, layers=4, heads=4, mlp_dim=512, patch=8, image=64, held_image=64, out_dim=128),
)


@dataclass(frozen=True, kw_only=True)
class ImageBindVision(ImageBindTower):
    """A vision transformer over pairs of frames; a still picture is shown twice.

    facebookresearch/ImageBind@53680b0 imagebind/models/imagebind_model.py:37-506: the class token after the last layer
    is normed, projected and scaled to unit length. Other modalities' embeddings are longer (audio 20).

    Attributes:
        together: frames that one patch covers.
        held_image: side of the view whose positions the weights hold; for others they are interpolated bicubically.
    """

    abstract = False
    implementation = "omniform.encoders.imagebind_vision_module:ImageBindVisionModule"
    released = (
        *tower_rules("vision", (("rgbt_stem.proj.1.", "patches."),)),
        ("modality_trunks.vision.pre_transformer_layer.0.", "pre_norm."),
    )

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    patch: int
    image: int
    held_image: int
    together: int = 2

    @property
    def size(self) -> Hw:
        return self.image, self.image

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2

    @property
    def held(self) -> int:
        return (self.held_image // self.patch) ** 2

    def stem_params(self) -> int:
        return 3 * self.together * self.patch**2 * self.width + 2 * self.width

    def flops(self, size: Hw) -> int:
        stem = self.together * conv_flops(self.patches, self.patch, 3, self.width)
        # of one view, as for other encoders: a share of the pair
        return (stem + self.layers_flops()) // self.together

    def shrunk(self, size: Shrunk) -> ImageBindVision:
        return self.but(**SMALL[size])


IMAGEBIND_HUGE = ImageBindVision(
    width=1280, layers=32, heads=16, mlp_dim=5120, patch=14, image=224, held_image=224, out_dim=1024
)
