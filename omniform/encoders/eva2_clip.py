"""EVA-02-CLIP-E (EVA-CLIP, arXiv:2303.15389) as CogVLM reads it: norms after attention and after the MLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omniform.encoders.eva_vit import EvaVit
from omniform.geometry import SpecError


@dataclass(frozen=True, kw_only=True)
class Eva2Clip(EvaVit):
    """Layers that normalise what a branch gives, before it is added; patches of the last layer, no final norm.

    THUDM/CogVLM@f7283b2 utils/models/eva_clip_model.py: the last of the 64 layers was cut off, the class token stands
    first and is dropped at the end.
    """

    abstract = False
    implementation = "omniform.encoders.eva2_clip_module:Eva2ClipModule"
    family: ClassVar[str] = "EVA2-CLIP-"

    keep_class: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_class or self.trained_image:
            raise SpecError("Eva2Clip drops its class token and holds positions of its own view; leave both fields out")

    @property
    def title(self) -> str:
        return self.family + {1792: "E"}.get(self.width, str(self.width))

    def layer_params(self) -> int:
        return super().layer_params() + self.width  # keys have a bias


EVA2_CLIP_E_490 = Eva2Clip(width=1792, layers=63, heads=16, mlp_dim=15360, patch=14, image=490)
EVA2_CLIP_E_224 = EVA2_CLIP_E_490.but(image=224)
