"""EVA-CLIP vision transformers of the first generation (EVA, arXiv:2211.07636; EVA-CLIP, arXiv:2303.15389)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omniform.encoders.clip import CLIP_MEAN, CLIP_STD
from omniform.encoders.vit import Vit
from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Encoder, Shrunk


@dataclass(frozen=True, kw_only=True)
class EvaVit(Vit):
    """Pre-norm layers whose keys have no bias; no norm before or after them.

    salesforce/LAVIS@506965b lavis/models/eva_vit.py:60-456: the last of the 40 layers was cut off, and everything that
    follows it.

    Attributes:
        keep_class: whether the class token stands before the patches; there is no map then.
        key_bias: whether the weights hold a bias of keys beside the others, as transformers' do: it is zero there, and
            changes nothing.
        trained_image: side of the view whose positions the weights hold; for others they are interpolated bicubically.
        head: width of a projection that the weights hold behind a norm; nothing depends on either. 0: neither.
    """

    abstract = False
    implementation = "omniform.encoders.eva_vit_module:EvaVitModule"
    released = (("", ""),)
    family: ClassVar[str] = "EVA-CLIP ViT-"
    class_token: ClassVar[bool] = True
    patch_bias: ClassVar[bool] = True

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    activation: str = "gelu"
    norm_eps: float = 1e-6
    feature_layer: int = -1
    post_norm: bool = False
    keep_class: bool = True
    key_bias: bool = False
    trained_image: int | None = None
    head: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.post_norm or self.drop_first:
            raise SpecError("EvaVit has no final norm to hold, and its class token goes by keep_class, not drop_first")

    @property
    def held_patches(self) -> int:
        """Patches whose positions the weights hold."""
        return ((self.trained_image or self.image) // self.patch) ** 2

    def cells(self, size: Hw) -> Grid:
        rows, columns = super().cells(size)
        return (rows * columns + 1,) if self.keep_class else (rows, columns)

    def layer_params(self) -> int:
        return super().layer_params() - (0 if self.key_bias else self.width)

    def num_params(self) -> int:
        d = self.width
        tokens = d + (self.held_patches + 1) * d  # class token, positions
        return 3 * self.patch**2 * d + d + tokens + self.layers * self.layer_params() + self._head_params()

    def _head_params(self) -> int:
        return 2 * self.width + (self.width + 1) * self.head if self.head else 0

    def idle_params(self) -> int:
        return super().idle_params() + self._head_params()

    def shrunk(self, size: Shrunk) -> Encoder:  # type: ignore[override]  # as in `Vit`
        tiny = self.but(trained_image=self.trained_image and 36, head=min(self.head, 10))
        return super(EvaVit, tiny).shrunk(size)


EVA_G_224 = EvaVit(width=1408, layers=39, heads=16, mlp_dim=6144, patch=14, image=224)
EVA_G_364 = EVA_G_224.but(image=364)
EVA_CLIP_G_224 = EVA_G_224.but(layers=40, head=1024)
"""All of it, as EVA-CLIP was released."""
