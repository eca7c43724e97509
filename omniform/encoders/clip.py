"""CLIP vision transformers (arXiv:2103.00020), through transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omniform.encoders.vit import Vit
from omniform.geometry import Grid, Hw

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class ClipVit(Vit):
    """OpenAI or OpenCLIP weights in the transformers layout; the class token is dropped."""

    abstract = False
    implementation = "omniform.encoders.vit_module:ClipVitModule"
    released = (("vision_model.", "model."),)
    family: ClassVar[str] = "CLIP ViT-"
    class_token: ClassVar[bool] = True
    patch_bias: ClassVar[bool] = False

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class PooledClipVit(ClipVit):
    """The class token of the last layer, normed (transformers' `pooler_output`), as the only cell."""

    implementation = "omniform.encoders.vit_module:PooledClipVitModule"

    feature_layer: int = -1

    def cells(self, size: Hw) -> Grid:
        super().cells(size)  # refuses other sizes
        return (1,)

    def idle_params(self) -> int:
        return 0


CLIP_L_224 = ClipVit(width=1024, layers=24, heads=16, mlp_dim=4096, patch=14, image=224)
CLIP_L_336 = CLIP_L_224.but(image=336)
CLIP_L_224_POOLED = PooledClipVit(width=1024, layers=24, heads=16, mlp_dim=4096, patch=14, image=224)
CLIP_H_448 = ClipVit(width=1280, layers=32, heads=16, mlp_dim=5120, patch=14, image=448, activation="gelu")
