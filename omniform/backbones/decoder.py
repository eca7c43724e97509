"""What decoder-only language models share; each family states how it differs from this and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from omniform.backbones.configured import Configured
from omniform.frozen import FrozenMap
from omniform.geometry import SpecError
from omniform.parts import Rules, Shrunk
from omniform.routing import Experts

SHRUNK: Mapping[Shrunk, Mapping[str, int]] = FrozenMap(
    tiny=FrozenMap(dim=32, layers=2, heads=4, mlp_dim=48, vocab=128, context=512),
    nano=FrozenMap(dim=128, layers=4, heads=4, mlp_dim=256, vocab=256, context=2048),
)
KEYS: Mapping[str, str] = FrozenMap(
    dim="hidden_size", layers="num_hidden_layers", heads="num_attention_heads", kv_heads="num_key_value_heads",
    mlp_dim="intermediate_size", vocab="vocab_size", context="max_position_embeddings", norm_eps="rms_norm_eps",
    tied="tie_word_embeddings",
)  # fmt: skip
FIRST_CONTEXT = "original_max_position_embeddings"
"""Key of the context before it was extended, in rotary parameters."""
SILU: Mapping[str, Any] = FrozenMap(hidden_act="silu")

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""What most families call the linear modules of a layer, in the order of `Decoder.linears`."""

Linears = dict[str, list[tuple[int, int]]]
"""Group of one layer -> (in, out) of its linear modules."""


@dataclass(frozen=True, kw_only=True)
class Decoder(Configured):
    """A decoder-only transformer, run by transformers.

    Attributes:
        heads, kv_heads: query heads and key-value heads.
        head_dim: width of a head; None is `dim / heads`.
        rope_theta: base of the rotary frequencies.
        rope_scaling: further rotary parameters as released (`rope_type`, `factor` ...).
        rotary: fraction of a head that is rotated; 0 where positions enter in another way.
        tied: whether the output head is the embedding.
        init_std: spread of fresh weights; None is the family's own.
        moe: experts in the place of some layers' MLPs.
    """

    abstract: ClassVar[bool] = True
    implementation = "omniform.backbones.decoder_module:DecoderModule"
    keys: ClassVar[Mapping[str, str]] = KEYS
    rope_keys: ClassVar[tuple[str, str]] = ("rope_theta", "partial_rotary_factor")
    """Keys of `rope_theta` and `rotary` in configurations that predate `rope_parameters`."""
    fixed: ClassVar[Mapping[str, Any]] = SILU

    gated_mlp: ClassVar[bool] = True
    norm_params: ClassVar[int] = 1
    """Vectors per norm: 1 for a weight, 2 with a bias."""
    norms_per_layer: ClassVar[int] = 2
    layer_prefix: ClassVar[str] = "model.layers."
    attention_name: ClassVar[str] = "self_attn"
    """What the family calls the attention of a layer."""
    mlp_name: ClassVar[str] = "mlp"
    """What the family calls the MLP of a layer; "" where no one module of it maps positions one by one."""
    init_key: ClassVar[str] = "initializer_range"
    """What the family's configuration calls the spread of fresh weights."""

    heads: int
    kv_heads: int
    mlp_dim: int
    head_dim: int | None = None
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] = FrozenMap()
    rotary: float = 1.0
    tied: bool = False
    init_std: float | None = None
    moe: Experts | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rope_scaling", FrozenMap({k: _frozen(v) for k, v in self.rope_scaling.items()}))
        if self.heads % self.kv_heads:
            raise SpecError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")
        if self.head_dim is None and self.dim % self.heads:
            raise SpecError(f"width {self.dim} does not divide into {self.heads} heads; give head_dim")
        if self.rotary_dim % 2:
            raise SpecError(
                f"{self.rotary} of a head of {self.per_head} rotates {self.rotary_dim} channels; they must pair up"
            )

    @property
    def per_head(self) -> int:
        return self.head_dim or self.dim // self.heads

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that are rotated."""
        return int(self.rotary * self.per_head)

    @property
    def biases(self) -> frozenset[str]:
        """Linear layers with a bias: any of "qkv", "out", "mlp", "head"."""
        return frozenset()

    @property
    def trees(self) -> bool:  # type: ignore[override]
        return self.moe is None or self.moe.trees

    @property
    def released(self) -> Rules:  # type: ignore[override]
        first = ((f"{self.layer_prefix}{i}.mlp.", f"experts.layers.{i}.experts.0.") for i in self.routed_layers)
        return (*first, ("", "lm."))  # the MLPs of a plain language model are the first experts

    @property
    def experts_part(self) -> Experts | None:
        return self.moe

    @property
    def losses(self) -> Mapping[str, float]:
        return self.moe.losses if self.moe else FrozenMap()

    def joined(self) -> Self:
        """The same model with one MLP in the place of each router and its experts."""
        return self.but(moe=None)

    # -- cost --

    def linears(self) -> Linears:
        """(in, out) of the linear modules that every position of one layer passes through."""
        q, kv = self.heads * self.per_head, self.kv_heads * self.per_head
        mlp = [(self.dim, self.mlp_dim)] * (2 if self.gated_mlp else 1) + [(self.mlp_dim, self.dim)]
        return {"qkv": [(self.dim, q), (self.dim, kv), (self.dim, kv)], "out": [(q, self.dim)], "mlp": mlp}

    def layer_linear_params(self) -> int:
        return sum(map(self._group_params, self.linears()))

    def twin_params(self, qkv_bias: bool = False) -> tuple[int, int]:
        biased = qkv_bias or "qkv" in self.biases
        queries, *keys = (a * b + b * biased for a, b in self.linears()["qkv"])
        others = sum(self._group_params(group) for group in self.linears() if group != "qkv")
        return (sum(keys), queries + others) if keys else (queries, others)  # one module may give all three

    def _group_params(self, group: str) -> int:
        return sum(a * b + (b if group in self.biases else 0) for a, b in self.linears()[group])

    def layer_params(self) -> int:
        """Parameters of one layer, one without experts where some have them."""
        return self.layer_linear_params() + self.norms_per_layer * self.norm_params * self.dim

    def embedding_params(self) -> int:
        """Parameters of the embedding and the output head."""
        head = 0 if self.tied else self.vocab * self.dim
        return self.vocab * self.dim + head + (self.vocab if "head" in self.biases else 0)

    @property
    def tables(self) -> int:
        return 1 if self.tied else 2

    def num_params(self) -> int:
        return self.embedding_params() + self._params_from(0) + self.norm_params * self.dim

    def _params_from(self, first_layer: int) -> int:
        """Parameters of the layers from one on."""
        plain = max(self.layers - first_layer, 0) * self.layer_params()
        return plain + (sum(i >= first_layer for i in self.routed_layers) * self.further_params() if self.moe else 0)

    @property
    def routed_layers(self) -> tuple[int, ...]:
        """Numbers of the layers whose MLP is several experts."""
        return self.moe.layers(self.layers) if self.moe else ()

    def further_params(self) -> int:
        """Parameters that a layer with experts has beyond one without."""
        return self.moe.further_params(self.dim, self._group_params("mlp")) if self.moe else 0

    def experts_params(self) -> int:
        """Parameters of all experts and routers."""
        return len(self.routed_layers) * (self._group_params("mlp") + self.further_params()) if self.moe else 0

    def active_params(self) -> int:
        idle = self.moe.idle_params(self._group_params("mlp")) if self.moe else 0
        return self.num_params() - len(self.routed_layers) * idle

    def active_layer_params(self) -> int:
        """Weights of one layer that one position is multiplied with."""
        return sum(a * b for pairs in self.linears().values() for a, b in pairs)

    def flops_per_position(self) -> int:
        return 2 * (self.layers * self.active_layer_params() + self._further_weights())

    def _further_weights(self) -> int:
        """Weights that a position is multiplied with because some layers have experts."""
        one = sum(a * b for a, b in self.linears()["mlp"]) if self.moe else 0
        return len(self.routed_layers) * self.moe.further_weights(self.dim, one) if self.moe else 0

    def attention_flops(self, queries: int, keys: int) -> int:
        return 4 * self.layers * queries * keys * self.heads * self.per_head

    def kv_bytes_per_position(self, bytes_per_value: int) -> int:
        return 2 * self.layers * self.kv_heads * self.per_head * bytes_per_value

    def learnable_params(self, first_layer: int = 0) -> int:
        return self._params_from(first_layer) if first_layer else self.num_params()

    def lora_params(self, rank: int) -> int:
        further = self.moe.further_linears(self.dim, self.linears()["mlp"]) if self.moe else []
        each = self.layers * sum(a + b for pairs in self.linears().values() for a, b in pairs)
        return rank * (each + len(self.routed_layers) * sum(a + b for a, b in further))

    def named_linears(self) -> Mapping[str, tuple[int, int]]:
        pairs = [pair for group in self.linears().values() for pair in group]
        return dict(zip(LINEARS, pairs, strict=True)) if len(pairs) == len(LINEARS) else super().named_linears()

    def activation_values(self, learns: bool) -> int:
        q, kv = self.heads * self.per_head, self.kv_heads * self.per_head
        # a norm keeps its input; if it learns, what it scaled too (RMSNorm), and its linear layers their input
        norm = 4 - self.norm_params if learns else 1
        # queries, keys, values and output of attention; the output projection's input
        attention = (3 if learns else 2) * q + 2 * kv
        # gate, its activation and up projection, or the activation's input; the down projection's input
        mlp = (3 if self.gated_mlp else 1) + (1 if learns else 0)
        return self.norms_per_layer * norm * self.dim + attention + mlp * self.active_mlp_dim

    @property
    def active_mlp_dim(self) -> int:
        """Width of the MLP that one position passes through, on an average over layers."""
        passed = self.moe.passed if self.moe else 1
        return self.mlp_dim * (self.layers + (passed - 1) * len(self.routed_layers)) // self.layers

    # -- sizes --

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(**self.small(size))

    def small(self, size: Shrunk) -> dict[str, Any]:
        """What changes at `tiny` or `nano` size."""
        small = SHRUNK[size]
        kv_heads = max(1, small["heads"] * self.kv_heads // self.heads)
        rotary = self.rotary if self.rotary in (0, 1) else 0.5
        pairs = int(rotary * small["dim"] // small["heads"]) // 2
        scaling: dict[str, Any] = {k: v[:pairs] if isinstance(v, tuple) else v for k, v in self.rope_scaling.items()}
        if FIRST_CONTEXT in scaling:
            scaling[FIRST_CONTEXT] = scaling[FIRST_CONTEXT] * small["context"] // self.context
        # 0.02, made for widths of thousands, leaves a narrow model's attention flat for its first epochs
        init_std = small["dim"] ** -0.5 if size == "nano" else self.init_std
        others = {"head_dim": None, "rotary": rotary, "rope_scaling": scaling, "init_std": init_std}
        return {**small, "kv_heads": kv_heads, **others}

    # -- transformers --

    def config(self) -> dict[str, Any]:
        """Arguments of the family's transformers configuration."""
        sizes = self.sizes()
        if "head_dim" in self.keys:
            sizes[self.keys["head_dim"]] = self.per_head
        # special tokens belong to the tokenizer; a padding id would keep its embedding row from learning
        ids = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
        rope = {"rope_parameters": self.rope()} if self.rotary else {}
        fresh = {self.init_key: self.init_std} if self.init_std else {}
        return {**self.fixed, **sizes, **ids, **rope, **fresh}

    def rope(self) -> dict[str, Any]:
        """Rotary parameters of the transformers configuration."""
        part = {} if type(self).rotary == 1 else {"partial_rotary_factor": self.rotary}
        scaling = {k: list(v) if isinstance(v, tuple) else v for k, v in self.rope_scaling.items()}
        return {"rope_type": "default", "rope_theta": self.rope_theta, **part, **scaling}

    @classmethod
    def fields_of(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Fields from a released (transformers) configuration.

        Raises:
            SpecError: the configuration contradicts what the family has fixed.
        """
        fields = super().fields_of(config)
        fields["kv_heads"] = fields.get("kv_heads") or fields["heads"]
        if fields.get("head_dim") == fields["dim"] // fields["heads"]:
            fields["head_dim"] = None
        return {**fields, **(cls._rope_fields(config) if cls.rotary else {})}

    @classmethod
    def _rope_fields(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        theta, rotary = (config.get(key) for key in cls.rope_keys)
        kind = rope.pop("rope_type", rope.pop("type", "default"))
        fields = {
            "rope_theta": rope.pop("rope_theta", theta), "rotary": rope.pop("partial_rotary_factor", rotary),
            "rope_scaling": rope if kind == "default" else {"rope_type": kind, **rope},
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
