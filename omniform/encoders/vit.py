"""What the plain vision transformers share: patches of a square view, features of one chosen layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from omniform.encoders.conv_net import ConvNet
from omniform.frozen import FrozenMap
from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Encoder, Shrunk, conv_flops, vit_flops

LETTERS: Mapping[int, str] = FrozenMap({768: "B", 1024: "L", 1152: "SO400M", 1280: "H", 1408: "G", 1664: "bigG"})
"""Model width -> what the field calls the size."""

TINY: Mapping[str, int] = FrozenMap(width=32, layers=3, heads=4, mlp_dim=48, patch=6, image=24)


@dataclass(frozen=True, kw_only=True)
class Vit(Encoder):
    """A vision transformer whose features are the patch rows of one hidden layer, no final norm.

    Attributes:
        width: model width.
        layers: layers that the released weights hold.
        feature_layer: which hidden state is given, counted from the end as in `hidden_states[-2]`; layers after it
            are loaded and saved but never run.
        post_norm: whether the released weights hold the (unused) final norm.
        drop_first: drop the first patch row, as code bases do that expect a class token where there is none.
    """

    abstract: ClassVar[bool] = True
    family: ClassVar[str]
    """What the title starts with; the size and the patch follow."""
    class_token: ClassVar[bool]
    patch_bias: ClassVar[bool]

    width: int
    layers: int
    heads: int
    mlp_dim: int
    patch: int
    image: int
    activation: str
    norm_eps: float
    feature_layer: int = -2
    post_norm: bool = True
    drop_first: bool = False

    def __post_init__(self) -> None:
        if not -self.layers <= self.feature_layer <= -1:
            raise SpecError(f"feature_layer {self.feature_layer} of {self.layers} layers: give -1 to {-self.layers}")

    @property
    def title(self) -> str:
        return f"{self.family}{LETTERS.get(self.width, self.width)}/{self.patch}"

    @property
    def dim(self) -> int:
        return self.width

    @property
    def size(self) -> Hw:
        return self.image, self.image

    @property
    def run_layers(self) -> int:
        """Layers that influence the features."""
        return self.layers + 1 + self.feature_layer

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2

    def cells(self, size: Hw) -> Grid:
        if size != self.size:
            raise SpecError(f"{type(self).__name__} reads {self.size} views, got {size}; use views that keep its size")
        side = self.image // self.patch
        return (side * side - 1,) if self.drop_first else (side, side)

    def layer_params(self) -> int:
        """Parameters of one layer."""
        d, m = self.width, self.mlp_dim
        return 4 * (d * d + d) + 2 * d * m + d + m + 4 * d

    def idle_params(self) -> int:
        """Parameters that the released weights hold but that no feature depends on."""
        return (self.layers - self.run_layers) * self.layer_params() + 2 * self.width * self.post_norm

    def learnable_params(self, first_layer: int = 0) -> int:
        if first_layer:
            return max(self.run_layers - first_layer, 0) * self.layer_params()
        return self.num_params() - self.idle_params()

    def num_params(self) -> int:
        d = self.width
        embed = 3 * self.patch**2 * d + d * self.patch_bias
        if self.class_token:
            embed += d + d + 2 * d  # the token, its position, and the norm before the first layer
        return embed + self.patches * d + self.layers * self.layer_params() + 2 * d * self.post_norm

    def flops(self, size: Hw) -> int:
        tokens = self.patches + self.class_token
        return conv_flops(self.patches, self.patch, 3, self.width) + vit_flops(
            tokens, self.run_layers, self.width, self.mlp_dim
        )

    def shrunk(self, size: Shrunk) -> Encoder:  # type: ignore[override]  # of another kind at nano size
        """A small transformer at tiny size. At nano size a `ConvNet` of 64x64 views with the same normalisation: a
        transformer does not learn shapes from a few thousand pictures."""
        if size == "nano":
            return ConvNet(mean=self.mean, std=self.std, resample=self.resample)
        return self.but(**TINY)

    def config(self) -> dict[str, Any]:
        """Arguments of the transformers configuration."""
        return {
            "hidden_size": self.width, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "intermediate_size": self.mlp_dim, "patch_size": self.patch, "image_size": self.image,
            "hidden_act": self.activation, "layer_norm_eps": self.norm_eps,
        }  # fmt: skip

    @classmethod
    def fields_of(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Fields from a transformers vision configuration, as far as it says them."""
        optional = {"activation": "hidden_act", "norm_eps": "layer_norm_eps"}
        return {
            "width": config["hidden_size"], "layers": config["num_hidden_layers"],
            "heads": config["num_attention_heads"], "mlp_dim": config["intermediate_size"],
            "patch": config["patch_size"], "image": config["image_size"],
            **{field: config[key] for field, key in optional.items() if key in config},
        }  # fmt: skip
