"""What decoder-only language models share; each family states how it differs and its transformers configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from omniform.geometry import SpecError
from omniform.parts import Backbone, Shrunk

SHRUNK: dict[Shrunk, dict[str, int]] = {
    "tiny": {"dim": 32, "layers": 2, "heads": 4, "mlp_dim": 48, "vocab": 128, "context": 512},
    "nano": {"dim": 128, "layers": 4, "heads": 4, "mlp_dim": 256, "vocab": 256, "context": 2048},
}


@dataclass(frozen=True, kw_only=True)
class Decoder(Backbone):
    """A decoder-only transformer, run by transformers.

    Attributes:
        name: the released weights it stands for, as the field calls them.
        heads, kv_heads: query heads and key-value heads.
        head_dim: width of a head; None is `dim / heads`.
        tied: whether the output head is the embedding.
    """

    abstract: ClassVar[bool] = True
    implementation = "omniform.backbones.decoder_module:DecoderModule"
    model_type: ClassVar[str]
    """transformers' name of the family."""
    gated_mlp: ClassVar[bool] = True
    norm_params: ClassVar[int] = 1
    """Vectors per norm: 1 for RMSNorm, 2 for LayerNorm with bias."""
    norms_per_layer: ClassVar[int] = 2
    biases: ClassVar[frozenset[str]] = frozenset()
    """Linear layers with a bias: any of "qkv", "out", "mlp", "head"."""
    layer_prefix: ClassVar[str] = "model.layers."

    name: str = ""
    heads: int
    kv_heads: int
    mlp_dim: int
    head_dim: int | None = None
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tied: bool = False

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise SpecError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")
        if self.head_dim is None and self.dim % self.heads:
            raise SpecError(f"width {self.dim} does not divide into {self.heads} heads; give head_dim")

    @property
    def title(self) -> str:
        return self.name or type(self).__name__

    @property
    def per_head(self) -> int:
        return self.head_dim or self.dim // self.heads

    # -- cost --

    def _linears(self) -> dict[str, list[tuple[int, int]]]:
        """Group -> (in, out) of the linear layers of one layer."""
        q, kv = self.heads * self.per_head, self.kv_heads * self.per_head
        mlp = [(self.dim, self.mlp_dim)] * (2 if self.gated_mlp else 1) + [(self.mlp_dim, self.dim)]
        return {"qkv": [(self.dim, q), (self.dim, kv), (self.dim, kv)], "out": [(q, self.dim)], "mlp": mlp}

    def layer_params(self) -> int:
        linears = sum(
            a * b + (b if group in self.biases else 0) for group, pairs in self._linears().items() for a, b in pairs
        )
        return linears + self.norms_per_layer * self.norm_params * self.dim

    def embedding_params(self) -> int:
        head = 0 if self.tied else self.vocab * self.dim
        return self.vocab * self.dim + head + (self.vocab if "head" in self.biases else 0)

    def num_params(self) -> int:
        return self.embedding_params() + self.layers * self.layer_params() + self.norm_params * self.dim

    def active_layer_params(self) -> int:
        """Weights of one layer that one position passes through."""
        return sum(a * b for pairs in self._linears().values() for a, b in pairs)

    def flops_per_position(self) -> int:
        return 2 * self.layers * self.active_layer_params()

    def head_flops(self) -> int:
        """Forward FLOPs of the logits of one position."""
        return 2 * self.dim * self.vocab

    def attention_flops(self, queries: int, keys: int) -> int:
        return 4 * self.layers * queries * keys * self.heads * self.per_head

    def kv_bytes_per_position(self, bytes_per_value: int) -> int:
        return 2 * self.layers * self.kv_heads * self.per_head * bytes_per_value

    # -- sizes --

    def shrunk(self, size: Shrunk) -> Self:
        small = SHRUNK[size]
        kv_heads = max(1, small["heads"] * self.kv_heads // self.heads)
        return self.but(**small, kv_heads=kv_heads, head_dim=None)

    # -- transformers --

    def config(self) -> dict[str, Any]:
        """Arguments of the family's transformers configuration."""
        sizes = {
            "hidden_size": self.dim, "num_hidden_layers": self.layers, "vocab_size": self.vocab,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.mlp_dim, "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_eps, "tie_word_embeddings": self.tied,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
        }  # fmt: skip
        return sizes if self.head_dim is None else {**sizes, "head_dim": self.head_dim}

    @classmethod
    def fields_of(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Fields from a released (transformers) configuration."""
        rope = config.get("rope_parameters") or {}
        return {
            "dim": config["hidden_size"], "layers": config["num_hidden_layers"], "vocab": config["vocab_size"],
            "heads": config["num_attention_heads"],
            "kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
            "mlp_dim": config["intermediate_size"], "context": config["max_position_embeddings"],
            "norm_eps": config.get("rms_norm_eps", cls.norm_eps), "head_dim": config.get("head_dim"),
            "rope_theta": rope.get("rope_theta", config.get("rope_theta", cls.rope_theta)),
            "tied": config.get("tie_word_embeddings", cls.tied),
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any], **extra: Any) -> Self:
        """The declaration of a released configuration."""
        return cls(**{**cls.fields_of(config), **extra})
