"""Vision transformers in the layout of OpenCLIP (mlfoundations/open_clip v2.20.0, transformer.py:303-510)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omniform.encoders.clip import CLIP_MEAN, CLIP_STD
from omniform.encoders.vit import Vit
from omniform.parts import Encoder, Shrunk


@dataclass(frozen=True, kw_only=True)
class OpenClipVit(Vit):
    """Computes what `ClipVit` does; names are OpenCLIP's, and queries, keys and values are one tensor.

    Attributes:
        shared_dim: width of the space shared with text, whose projection the weights hold (it is never run).
    """

    abstract = False
    implementation = "omniform.encoders.open_clip_module:OpenClipVitModule"
    released = (("visual.", "visual."),)
    family: ClassVar[str] = "CLIP ViT-"
    class_token: ClassVar[bool] = True
    patch_bias: ClassVar[bool] = False

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    shared_dim: int

    def idle_params(self) -> int:
        return super().idle_params() + self.width * self.shared_dim

    def num_params(self) -> int:
        return super().num_params() + self.width * self.shared_dim

    def shrunk(self, size: Shrunk) -> Encoder:  # type: ignore[override]  # as in `Vit`
        return super(OpenClipVit, self.but(shared_dim=16)).shrunk(size)


OPEN_CLIP_L_224 = OpenClipVit(
    width=1024, layers=24, heads=16, mlp_dim=4096, patch=14, image=224, feature_layer=-1, shared_dim=768
)
