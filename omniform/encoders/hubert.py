"""HuBERT (arXiv:2106.07447) and WavLM (arXiv:2110.13900), large sizes, through transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from omniform.encoders.audio import AudioEncoder
from omniform.geometry import Grid, Hw, SpecError, conv1d_flops, vit_flops
from omniform.parts import Rules, Shrunk


@dataclass(frozen=True, kw_only=True)
class Hubert(AudioEncoder):
    """Convolutions on the waveform, each with a norm, then a pre-norm transformer, final norm included.

    Attributes:
        name: what the field calls the size.
        kernels, strides, conv_width: of the convolutions.
        conv_bias: whether they have biases.
        position_kernel, position_groups: of the convolutional positions.
        longest: samples of the longest sound; attention grows with the square of it.
    """

    abstract = False
    implementation = "omniform.encoders.hubert_module:HubertModule"
    family: ClassVar[str] = "hubert"
    """transformers' name of it."""
    released: ClassVar[Rules] = (("hubert.", "model."),)

    name: str
    width: int
    layers: int
    heads: int
    mlp_dim: int
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_width: int = 512
    conv_bias: bool = True
    position_kernel: int = 128
    position_groups: int = 16
    longest: int = 960000

    def __post_init__(self) -> None:
        if len(self.kernels) != len(self.strides):
            raise SpecError(f"{len(self.kernels)} kernels and {len(self.strides)} strides: give one of each a layer")
        if self.width % self.heads or self.width % self.position_groups:
            raise SpecError(f"width {self.width} must divide into {self.heads} heads and {self.position_groups} groups")

    @property
    def title(self) -> str:
        return f"HuBERT-{self.name}"

    @property
    def dim(self) -> int:
        return self.width

    @property
    def window(self) -> int:
        return self.longest

    @property
    def shortest(self) -> int:
        """Samples of one cell: what the convolutions see of the waveform."""
        seen = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            seen = (seen - 1) * stride + kernel
        return seen

    def lengths(self, samples: int) -> list[int]:
        """Cells after each convolution."""
        found = [samples]
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            found.append((found[-1] - kernel) // stride + 1)
        return found[1:]

    def cells(self, size: Hw) -> Grid:
        return (self.lengths(self.heard(size, self.shortest))[-1],)

    # -- cost --

    def layer_params(self) -> int:
        """Parameters of one layer."""
        d, m = self.width, self.mlp_dim
        return 4 * d * (d + 1) + 2 * d * m + m + d + 4 * d

    def num_params(self) -> int:
        d, c, count = self.width, self.conv_width, len(self.kernels)
        convs = sum(k * (c if i else 1) * c for i, k in enumerate(self.kernels))
        convs += count * c * (3 if self.conv_bias else 2)
        project = 2 * c + (c + 1) * d
        positions = d * (d // self.position_groups) * self.position_kernel + self.position_kernel + d
        return convs + project + positions + self.layers * self.layer_params() + 2 * d

    def learnable_params(self, first_layer: int = 0) -> int:
        return max(self.layers - first_layer, 0) * self.layer_params() if first_layer else self.num_params()

    def flops(self, size: Hw) -> int:
        lengths, c = self.lengths(self.heard(size, self.shortest)), self.conv_width
        convs = sum(
            conv1d_flops(n, k, c if i else 1, c) for i, (n, k) in enumerate(zip(lengths, self.kernels, strict=True))
        )
        rows, d = lengths[-1], self.width
        positions = conv1d_flops(rows, self.position_kernel, d // self.position_groups, d)
        return convs + 2 * rows * c * d + positions + vit_flops(rows, self.layers, d, self.mlp_dim)

    # -- sizes --

    def shrunk(self, size: Shrunk) -> Self:
        tiny = {"width": 16, "heads": 2, "mlp_dim": 24, "conv_width": 8, "position_kernel": 4, "position_groups": 2}
        nano = {"width": 96, "heads": 4, "mlp_dim": 192, "conv_width": 64, "position_kernel": 16, "position_groups": 4}
        longest = min(self.longest, 7680 if size == "tiny" else 48000)
        return self.but(layers=2, longest=longest, **(tiny if size == "tiny" else nano))

    # -- transformers --

    def config(self) -> dict[str, Any]:
        """Arguments of the transformers configuration; nothing in it is random."""
        count = len(self.kernels)
        return {
            "hidden_size": self.width, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "intermediate_size": self.mlp_dim, "conv_dim": [self.conv_width] * count, "conv_kernel": list(self.kernels),
            "conv_stride": list(self.strides), "conv_bias": self.conv_bias, "num_feat_extract_layers": count,
            "num_conv_pos_embeddings": self.position_kernel, "num_conv_pos_embedding_groups": self.position_groups,
            "feat_extract_norm": "layer", "do_stable_layer_norm": True, "hidden_dropout": 0.0, "layerdrop": 0.0,
            "activation_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "mask_time_prob": 0.0,
            "apply_spec_augment": False,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WavLm(Hubert):
    """The same with gated relative positions in its attention.

    Attributes:
        buckets, distance: of relative positions: how many there are, and the farthest that is told apart.
    """

    family: ClassVar[str] = "wavlm"
    released: ClassVar[Rules] = (("", "model."),)

    buckets: int = 320
    distance: int = 800
    conv_bias: bool = False

    @property
    def title(self) -> str:
        return f"WavLM-{self.name}"

    def layer_params(self) -> int:
        return super().layer_params() + 8 * (self.width // self.heads + 1) + self.heads

    def num_params(self) -> int:
        return super().num_params() + self.buckets * self.heads

    def shrunk(self, size: Shrunk) -> Self:
        return super().shrunk(size).but(buckets=8, distance=16)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "num_buckets": self.buckets, "max_bucket_distance": self.distance}


HUBERT_XLARGE = Hubert(name="XLarge", width=1280, layers=48, heads=16, mlp_dim=5120)
WAVLM_LARGE = WavLm(name="Large", width=1024, layers=24, heads=16, mlp_dim=4096)
