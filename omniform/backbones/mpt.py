"""MPT (mosaicml.com/blog/mpt-7b): no biases at all, ALiBi instead of position embeddings (arXiv:2108.12409)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log2
from typing import Any, ClassVar, Self

from omniform.backbones.decoder import Decoder, Linears
from omniform.frozen import FrozenMap
from omniform.geometry import SpecError
from omniform.parts import Shrunk

BIAS_MAX = 8
PLAIN: Mapping[str, Any] = FrozenMap(
    alibi=True, alibi_bias_max=BIAS_MAX, clip_qkv=None, softmax_scale=None, prefix_lm=False
)


@dataclass(frozen=True, kw_only=True)
class Mpt(Decoder):
    """LayerNorm without bias, GELU, scores that fall with distance.

    Attributes:
        qk_norm: whether queries and keys pass a LayerNorm over all heads (the 1B release).
    """

    abstract = False
    implementation = "omniform.backbones.mpt_module:MptModule"
    model_type = "mpt"
    keys = FrozenMap(
        dim="d_model", layers="n_layers", heads="n_heads", vocab="vocab_size", context="max_seq_len",
        norm_eps="layer_norm_epsilon", tied="tie_word_embeddings",
    )  # fmt: skip
    fixed = FrozenMap(no_bias=True)
    assumed = FrozenMap(dim=2048, layers=24, heads=16, vocab=50368, context=2048)
    gated_mlp = False
    mlp_name = ""
    layer_prefix: ClassVar[str] = "transformer.blocks."
    attention_name = "attn"

    rotary: float = 0.0
    tied: bool = True
    qk_norm: bool = False

    @property
    def slopes(self) -> tuple[float, ...]:
        """What a key loses for each position that it lies back, by head."""
        heads = 2 ** ceil(log2(self.heads))
        slopes = [2.0 ** (-BIAS_MAX * (i + 1) / heads) for i in range(heads)]
        return tuple(slopes if heads == self.heads else (slopes[1::2] + slopes[::2])[: self.heads])

    def shrunk(self, size: Shrunk) -> Self:
        small = super().shrunk(size)
        return small.but(mlp_dim=self.mlp_dim // self.dim * small.dim)

    def linears(self) -> Linears:
        return {**super().linears(), "qkv": [(self.dim, 3 * self.dim)]}

    def layer_params(self) -> int:
        return super().layer_params() + 2 * self.dim * self.qk_norm

    def config(self) -> dict[str, Any]:
        attention = {**PLAIN, "qk_ln": self.qk_norm}
        return {**super().config(), "attn_config": attention, "expansion_ratio": self.mlp_dim // self.dim}

    @classmethod
    def fields_of(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        attention = config.get("attn_config") or {}
        for key, value in PLAIN.items():
            if attention.get(key, value) != value:
                raise SpecError(
                    f"Mpt stands for attn_config.{key}={value!r}, the configuration says {attention[key]!r}"
                )
        fields = super().fields_of(config)
        width = config.get("expansion_ratio", 4) * fields["dim"]
        return {**fields, "mlp_dim": width, "qk_norm": attention.get("qk_ln", False)}


MPT_7B = Mpt(name="MPT", dim=4096, layers=32, heads=32, kv_heads=32, mlp_dim=16384, vocab=50432, context=2048)
MPT_1B = Mpt(
    name="MPT", dim=2048, layers=24, heads=16, kv_heads=16, mlp_dim=8192, vocab=50368, context=2048, qk_norm=True
)
