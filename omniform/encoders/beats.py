"""BEATs: a transformer over patches of a spectrogram (arXiv:2212.09058)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from omniform.encoders.audio import AudioEncoder
from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Shrunk, conv_flops, vit_flops

BINS = 128
FRAME, SHIFT = 400, 160
"""Samples of one frame of the filter banks, and between two."""
FREQUENCIES = 257
"""Of a frame, before the filters."""


@dataclass(frozen=True, kw_only=True)
class Beats(AudioEncoder):
    """Kaldi filter banks -> patches, 8 of a time step one after another -> post-norm layers with gated position biases.

    microsoft/unilm@768a3c8 beats/BEATs.py, beats/backbone.py; the sizes below are those that released checkpoints hold
    in their "cfg". Dropout is left out.

    Attributes:
        width: of the layers.
        patch_width: of the patches before the layers.
        position_kernel, position_groups: convolution over the row of patches that tells where they stand.
        buckets, farthest: of relative positions, half of the buckets for each direction.
        classes: of the released classifier, which the features do not need; 0 where there is none.
        bank_mean, bank_deviation: filter banks have the mean taken off and are divided by twice the deviation.
        longest: samples of the longest sound.
    """

    abstract = False
    implementation = "omniform.encoders.beats_module:BeatsModule"
    released = (("", ""),)

    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    patch: int = 16
    patch_width: int = 512
    position_kernel: int = 128
    position_groups: int = 16
    buckets: int = 320
    farthest: int = 800
    classes: int = 0
    bank_mean: float = 15.41663
    bank_deviation: float = 6.55582
    longest: int = 480000

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % self.position_groups:
            raise SpecError(
                f"width {self.width} does not divide into {self.heads} heads and {self.position_groups} groups"
            )
        if self.patch_width == self.width:
            raise SpecError(f"patches of width {self.patch_width}: give another width than that of the layers")

    @property
    def title(self) -> str:
        return "BEATs"

    @property
    def dim(self) -> int:
        return self.width

    @property
    def window(self) -> int:
        return self.longest

    def cells(self, size: Hw) -> Grid:
        """(time steps, patches of one step)."""
        samples = self.heard(size, FRAME + (self.patch - 1) * SHIFT)
        return (1 + (samples - FRAME) // SHIFT) // self.patch, BINS // self.patch

    def layer_params(self) -> int:
        """Parameters of one layer; the table of position biases is the first layer's."""
        d, m = self.width, self.mlp_dim
        return 4 * (d * d + d) + 2 * d * m + m + d + 4 * d + self.heads + 8 * (d // self.heads) + 8

    def num_params(self) -> int:
        d, p = self.width, self.patch_width
        patches = p * self.patch**2 + 2 * p + (p + 1) * d
        places = d * d // self.position_groups * self.position_kernel + self.position_kernel + d
        table = self.buckets * self.heads
        return patches + places + 2 * d + table + self.layers * self.layer_params() + (d + 1) * self.classes

    def learnable_params(self, first_layer: int = 0) -> int:
        if first_layer:
            return max(self.layers - first_layer, 0) * self.layer_params()
        return self.num_params() - (self.width + 1) * self.classes

    def flops(self, size: Hw) -> int:
        steps, bins = self.cells(size)
        cells, d = steps * bins, self.width
        entry = conv_flops(cells, self.patch, 1, self.patch_width) + 2 * cells * self.patch_width * d
        # an even kernel gives one cell more, which is dropped
        places = 2 * (cells + 1 - self.position_kernel % 2) * d * d // self.position_groups * self.position_kernel
        gates = 2 * self.layers * cells * 8 * d
        entry += 2 * (1 + (size[1] - FRAME) // SHIFT) * FREQUENCIES * BINS  # the mel filters
        return entry + places + gates + vit_flops(cells, self.layers, d, self.mlp_dim)

    def shrunk(self, size: Shrunk) -> Self:
        tiny: dict[str, Any] = {
            "width": 24, "layers": 2, "heads": 4, "mlp_dim": 32, "patch_width": 12, "position_kernel": 16,
            "position_groups": 4, "buckets": 32, "farthest": 40, "classes": min(self.classes, 5), "longest": 7680,
        }  # fmt: skip
        nano = {
            **tiny, "width": 96, "mlp_dim": 192, "patch_width": 64, "longest": min(self.longest, 32000),
        }  # fmt: skip
        return self.but(**(tiny if size == "tiny" else nano))

    @classmethod
    def fields_of(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Fields from the "cfg" of a released checkpoint."""
        names = {
            "width": "encoder_embed_dim", "layers": "encoder_layers", "heads": "encoder_attention_heads",
            "mlp_dim": "encoder_ffn_embed_dim", "patch": "input_patch_size", "patch_width": "embed_dim",
            "position_kernel": "conv_pos", "position_groups": "conv_pos_groups", "buckets": "num_buckets",
            "farthest": "max_distance",
        }  # fmt: skip
        classes = config["predictor_class"] if config.get("finetuned_model") else 0
        return {**{field: config[key] for field, key in names.items()}, "classes": classes}


BEATS_ITER3_PLUS = Beats()
BEATS_ITER3_PLUS_AS2M = Beats(classes=527)
"""Fine-tuned on AudioSet."""
