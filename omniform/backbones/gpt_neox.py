"""GPT-NeoX (arXiv:2204.06745), the architecture of RedPajama-INCITE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omniform.backbones.decoder import KEYS, Decoder, Linears
from omniform.frozen import FrozenMap


@dataclass(frozen=True, kw_only=True)
class GptNeoX(Decoder):
    """LayerNorm, GELU, biases everywhere but in the head.

    Attributes:
        parallel: whether attention and MLP stand side by side, each after its own norm.
    """

    abstract = False
    model_type = "gpt_neox"
    keys = FrozenMap({f: k for f, k in KEYS.items() if f != "kv_heads"}, norm_eps="layer_norm_eps")
    rope_keys = ("rotary_emb_base", "rotary_pct")
    fixed = FrozenMap(hidden_act="gelu", attention_bias=True, hidden_dropout=0.0)
    assumed = FrozenMap(dim=6144, layers=44, heads=64, mlp_dim=24576, vocab=50432, context=2048)
    gated_mlp = False
    norm_params = 2
    attention_name = "attention"
    layer_prefix = "gpt_neox.layers."

    rotary: float = 0.25
    parallel: bool = True

    @property
    def biases(self) -> frozenset[str]:
        return frozenset({"qkv", "out", "mlp"})

    def linears(self) -> Linears:
        return {**super().linears(), "qkv": [(self.dim, 3 * self.dim)]}

    def config(self) -> dict[str, Any]:
        return {**super().config(), "use_parallel_residual": self.parallel}

    @classmethod
    def fields_of(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().fields_of(config), "parallel": config.get("use_parallel_residual", cls.parallel)}


REDPAJAMA_3B = GptNeoX(
    name="RedPajama-INCITE", dim=2560, layers=32, heads=32, kv_heads=32, mlp_dim=10240, vocab=50432, context=2048,
    rotary=1.0, parallel=False,
)  # fmt: skip
