"""OPT (arXiv:2205.01068): LayerNorm, ReLU, biases everywhere, learned positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.backbones.decoder import KEYS, Decoder
from omniform.frozen import FrozenMap
from omniform.parts import Shrunk

OFFSET = 2
"""Rows of the position table before that of position 0 (facebookresearch/metaseq: the padding id, plus one)."""


@dataclass(frozen=True, kw_only=True)
class Opt(Decoder):
    """The pre-norm sizes.

    Attributes:
        dropout: of the residual branches in training, as released.
    """

    abstract = False
    model_type = "opt"
    keys = FrozenMap(
        {f: k for f, k in KEYS.items() if f not in ("kv_heads", "norm_eps")}, mlp_dim="ffn_dim", dropout="dropout"
    )
    fixed = FrozenMap(
        activation_function="relu", do_layer_norm_before=True, _remove_final_layer_norm=False, enable_bias=True,
        layer_norm_elementwise_affine=True, layerdrop=0.0,
    )  # fmt: skip
    assumed = FrozenMap(dim=768, layers=12, heads=12, mlp_dim=3072, vocab=50272, context=2048)
    gated_mlp = False
    mlp_name = ""
    init_key = "init_std"
    norm_params = 2
    layer_prefix = "model.decoder.layers."

    rotary: float = 0.0
    tied: bool = True
    dropout: float = 0.1

    @property
    def biases(self) -> frozenset[str]:
        return frozenset({"qkv", "out", "mlp"})

    def embedding_params(self) -> int:
        return super().embedding_params() + (self.context + OFFSET) * self.dim

    def activation_values(self, learns: bool) -> int:
        # ReLU keeps its output, which the next layer keeps anyway
        return super().activation_values(learns) - (self.mlp_dim if learns else 0)

    def shrunk(self, size: Shrunk) -> Self:
        return super().shrunk(size).but(dropout=0.0)


OPT_2_7B = Opt(name="OPT", dim=2560, layers=32, heads=32, kv_heads=32, mlp_dim=10240, vocab=50272, context=2048)
OPT_6_7B = OPT_2_7B.but(dim=4096, mlp_dim=16384)
