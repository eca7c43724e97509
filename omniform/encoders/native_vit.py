"""A vision transformer for views of any size and for pairs of frames (Qwen2-VL, arXiv:2409.12191 section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.encoders.clip import CLIP_MEAN, CLIP_STD
from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Encoder, Shrunk, conv_flops, vit_flops


@dataclass(frozen=True, kw_only=True)
class NativeVit(Encoder):
    """Patches of two consecutive frames, pre-norm layers, rotation by row and column; no learned positions, no norm
    after the last layer. Frames of one pair attend to each other, pairs do not.

    huggingface/transformers@v4.45.2 src/transformers/models/qwen2_vl/modeling_qwen2_vl.py:225-480, 960-1030.

    Attributes:
        name: what the field calls it.
        image: side of a view where no picture says it.
        together: frames of a patch; a picture is shown as often.
        rope_theta: base of the rotary frequencies; one half of a head's pairs turns by row, the other by column.
    """

    implementation = "omniform.encoders.native_vit_module:NativeVitModule"
    released = (("", ""),)

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    name: str = ""
    width: int
    layers: int
    heads: int
    mlp_dim: int
    patch: int
    together: int = 2
    image: int
    activation: str = "quick_gelu"
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        if self.width % (4 * self.heads):
            raise SpecError(
                f"width {self.width}, {self.heads} heads: the channels of a head must pair up for rows and for columns"
            )
        self.cells(self.size)

    @property
    def title(self) -> str:
        return self.name or f"ViT-{self.width}/{self.patch}"

    @property
    def dim(self) -> int:
        return self.width

    @property
    def size(self) -> Hw:
        return self.image, self.image

    def cells(self, size: Hw) -> Grid:
        if size[0] % self.patch or size[1] % self.patch:
            raise SpecError(f"NativeVit reads views of whole patches: sides {size} must divide by {self.patch}")
        return size[0] // self.patch, size[1] // self.patch

    def layer_params(self) -> int:
        """Parameters of one layer."""
        d, m = self.width, self.mlp_dim
        return 4 * (d * d + d) + 2 * d * m + d + m + 4 * d

    def num_params(self) -> int:
        return 3 * self.together * self.patch**2 * self.width + self.layers * self.layer_params()

    def learnable_params(self, first_layer: int = 0) -> int:
        return max(self.layers - first_layer, 0) * self.layer_params() if first_layer else self.num_params()

    def flops(self, size: Hw) -> int:
        tokens = size[0] // self.patch * (size[1] // self.patch)
        whole = self.together * conv_flops(tokens, self.patch, 3, self.width)
        # of one view, as for other encoders: a share of the set of features that it becomes
        return (whole + vit_flops(tokens, self.layers, self.width, self.mlp_dim)) // self.together

    def shrunk(self, size: Shrunk) -> Self:
        """A small one of the same kind, also at nano size: no other encoder here reads views of any size."""
        if size == "tiny":
            return self.but(width=32, layers=3, heads=4, mlp_dim=48, patch=8, image=64)
        return self.but(width=128, layers=4, heads=4, mlp_dim=256, patch=8, image=64)


VIT_675M = NativeVit(name="ViT-675M", width=1280, layers=32, heads=16, mlp_dim=5120, patch=14, image=112)
"""Released at 2, 7 and 72 billion with the same shape."""
