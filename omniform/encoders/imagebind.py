"""What the towers of ImageBind share (arXiv:2305.05665): transformers whose class tokens end in one space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omniform.geometry import Grid, Hw, SpecError, vit_flops
from omniform.parts import Encoder, Rules


@dataclass(frozen=True, kw_only=True)
class ImageBindTower(Encoder):
    """Patches and a class token with learned positions -> pre-norm layers -> one embedding, the class token's.

    facebookresearch/ImageBind@53680b0 imagebind/models/imagebind_model.py:37-506.

    Attributes:
        out_dim: width of the shared space.
        unit: scale the embedding to length one.
    """

    abstract: ClassVar[bool] = True
    tower: ClassVar[str]
    """The released checkpoint's name of the modality."""
    bias_rows: ClassVar[bool] = False
    """Whether each layer has a key and a value of its own that every token sees."""

    width: int
    layers: int
    heads: int
    mlp_dim: int
    out_dim: int
    norm_eps: float = 1e-6
    unit: bool = True

    @property
    def title(self) -> str:
        return "ImageBind"

    @property
    def dim(self) -> int:
        return self.out_dim

    @property
    def patches(self) -> int:
        """Patches of one view, or of views that are read together."""
        raise NotImplementedError

    @property
    def held(self) -> int:
        """Patches whose positions the weights hold."""
        return self.patches

    def stem_params(self) -> int:
        """Parameters that make patches, and of norms before the layers."""
        raise NotImplementedError

    def cells(self, size: Hw) -> Grid:
        if size != self.size:
            raise SpecError(f"{type(self).__name__} reads {self.size} views, got {size}; use views that keep its size")
        return (1,)

    def layer_params(self) -> int:
        """Parameters of one layer."""
        d, m = self.width, self.mlp_dim
        return 4 * (d * d + d) + 2 * d * m + d + m + 4 * d + 2 * d * self.bias_rows

    def num_params(self) -> int:
        d = self.width
        positions = d + (self.held + 1) * d
        return self.stem_params() + positions + self.layers * self.layer_params() + 2 * d + d * self.out_dim

    def layers_flops(self) -> int:
        """Forward FLOPs of layers and head for one set of patches."""
        tokens, d = self.patches + 1, self.width
        seen = 4 * self.layers * tokens * d * self.bias_rows
        return vit_flops(tokens, self.layers, d, self.mlp_dim) + seen + 2 * d * self.out_dim

    def learnable_params(self, first_layer: int = 0) -> int:
        if not first_layer:
            return self.num_params()
        return max(self.layers - first_layer, 0) * self.layer_params()


def tower_rules(tower: str, stem: Rules) -> Rules:
    """Key rules of one tower in the released checkpoint.

    Args:
        stem: rules of what stands before the layers, behind the modality's prefix of its preprocessor.
    """
    entry = f"modality_preprocessors.{tower}."
    return (
        (entry + "cls_token", "cls_token"),
        (entry + "pos_embedding_helper.pos_embed", "positions"),
        *((entry + theirs, ours) for theirs, ours in stem),
        (f"modality_trunks.{tower}.blocks.", "blocks."),
        (f"modality_heads.{tower}.0.", "norm."),
        (f"modality_heads.{tower}.2.", "head."),
    )
