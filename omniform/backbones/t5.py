"""T5 1.1 and Flan-T5 (arXiv:1910.10683, arXiv:2210.11416): an encoder reads the prompt, a decoder answers.

Positions enter as a learned bias of attention that depends on distance only, so no length is too long; `context` is
the length trained for. Sizes: google/flan-t5-xl and google/flan-t5-xxl, config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from omniform.backbones.configured import Configured
from omniform.frozen import FrozenMap
from omniform.geometry import SpecError
from omniform.parts import Shrunk

SHRUNK: Mapping[Shrunk, Mapping[str, int]] = FrozenMap(
    tiny=FrozenMap(dim=32, layers=2, heads=4, head_dim=8, mlp_dim=48, vocab=128, context=512),
    nano=FrozenMap(dim=128, layers=2, heads=4, head_dim=32, mlp_dim=256, vocab=256, context=2048),
)
KEYS: Mapping[str, str] = FrozenMap(
    dim="d_model", layers="num_layers", heads="num_heads", head_dim="d_kv", mlp_dim="d_ff", vocab="vocab_size",
    context="n_positions", buckets="relative_attention_num_buckets", farthest="relative_attention_max_distance",
    norm_eps="layer_norm_epsilon", dropout="dropout_rate", activation="dense_act_fn",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class T5(Configured):
    """Equally many layers in encoder and decoder; gated MLP, RMSNorm before each, no bias, a head of its own.

    A prompt attends to all of itself, so documents that share a medium but differ in a word share no position.

    Attributes:
        layers: of the encoder, and of the decoder.
        head_dim: width of a head; heads need not add up to `dim`.
        buckets, farthest: learned distances of a head, and the distance from which on all are the same.
        activation: of the MLP's gate, by its name in transformers.
        dropout: in training, as released.
    """

    implementation = "omniform.backbones.t5_module:T5Module"
    keys: ClassVar[Mapping[str, str]] = KEYS
    fixed: ClassVar[Mapping[str, Any]] = FrozenMap(
        feed_forward_proj="gated-gelu", decoder_start_token_id=0, is_encoder_decoder=True, tie_word_embeddings=False
    )
    assumed: ClassVar[Mapping[str, int]] = FrozenMap(dim=512, layers=6, heads=8, mlp_dim=2048, vocab=32128, context=512)
    trees = False
    start_id = 0

    heads: int
    head_dim: int = 64
    mlp_dim: int
    buckets: int = 32
    farthest: int = 128
    norm_eps: float = 1e-6
    activation: str = "gelu_new"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.buckets % 4 or self.farthest <= self.buckets // 2:
            raise SpecError(
                f"{self.buckets} buckets up to a distance of {self.farthest}: give a multiple of 4, and a distance "
                f"beyond {self.buckets // 2}"
            )

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    # -- cost --

    def attention_linears(self) -> list[tuple[int, int]]:
        """(in, out) of queries, keys, values and output of one attention."""
        return [(self.dim, self.inner)] * 3 + [(self.inner, self.dim)]

    def mlp_linears(self) -> list[tuple[int, int]]:
        return [(self.dim, self.mlp_dim)] * 2 + [(self.mlp_dim, self.dim)]

    def encoder_layer_params(self) -> int:
        return _area(self.attention_linears()) + _area(self.mlp_linears()) + 2 * self.dim

    def decoder_layer_params(self) -> int:
        return self.encoder_layer_params() + _area(self.attention_linears()) + self.dim

    def num_params(self) -> int:
        layers = self.layers * (self.encoder_layer_params() + self.decoder_layer_params())
        return 2 * self.vocab * self.dim + layers + 2 * self.buckets * self.heads + 2 * self.dim

    def flops_per_position(self) -> int:
        """Of one position of a prompt: the encoder, and the keys and values that the decoder reads."""
        encoder = _area(self.attention_linears()) + _area(self.mlp_linears())
        return 2 * self.layers * (encoder + 2 * self.dim * self.inner)

    def answer_flops_per_position(self) -> int:
        """Of one position of an answer: the decoder, without the keys and values of the prompt."""
        decoder = 2 * _area(self.attention_linears()) - 2 * self.dim * self.inner + _area(self.mlp_linears())
        return 2 * self.layers * decoder

    def attention_flops(self, queries: int, keys: int) -> int:
        """Of one kind of attention: the encoder's, the decoder's own, or across."""
        return 4 * self.layers * queries * keys * self.inner

    def read_flops(self, positions: int) -> int:
        return super().read_flops(positions) + self._answer_flops(positions, 1)

    def next_flops(self, prompt: int, answer: int = 0) -> int:
        return self._answer_flops(prompt, answer + 2)  # the start token, the answer, the new one

    def _answer_flops(self, prompt: int, seen: int) -> int:
        """Of one position of the decoder that sees `seen` of the decoder's."""
        return self.answer_flops_per_position() + self.attention_flops(1, seen) + self.attention_flops(1, prompt)

    def kv_bytes_per_position(self, bytes_per_value: int) -> int:
        """The decoder's own for a position of the answer, those it reads across for one of the prompt: as many."""
        return 2 * self.layers * self.inner * bytes_per_value

    def learnable_params(self, first_layer: int = 0) -> int:
        if first_layer:
            raise SpecError(
                f"{self.title} has layers in its encoder and in its decoder, which no one number tells apart; "
                "train it whole (first_layer=0), or with adapters"
            )
        return self.num_params()

    def lora_params(self, rank: int) -> int:
        encoder = [*self.attention_linears(), *self.mlp_linears()]
        each = 2 * sum(a + b for a, b in encoder) + sum(a + b for a, b in self.attention_linears())
        return self.layers * rank * each

    def activation_values(self, learns: bool) -> int:
        """Of a decoder layer, which keeps the most; an encoder layer keeps about two thirds of it."""
        # a norm keeps its input; if it learns, what it scaled too, and its linear layers their input
        norm = 3 if learns else 1
        attention = (3 if learns else 2) * self.inner + 2 * self.inner
        return 3 * norm * self.dim + 2 * attention + (4 if learns else 3) * self.mlp_dim

    # -- sizes --

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(**SHRUNK[size], dropout=0.0)

    # -- transformers --

    def config(self) -> dict[str, Any]:
        """Arguments of the family's transformers configuration."""
        return {**self.fixed, **self.sizes(), "pad_token_id": 0}

    @classmethod
    def fields_of(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Fields from a released (transformers) configuration.

        Raises:
            SpecError: the configuration contradicts what the family has fixed.
        """
        # transformers' own class says that the head is tied, which it is not in T5 1.1
        said = {key: value for key, value in config.items() if key != "tie_word_embeddings"}
        fields = super().fields_of(said)
        cls.refuse(said, {"num_decoder_layers": config.get("num_decoder_layers") and config.get("num_layers")})
        return fields


def _area(linears: list[tuple[int, int]]) -> int:
    return sum(a * b for a, b in linears)


FLAN_T5_XL = T5(name="Flan-T5", dim=2048, layers=24, heads=32, mlp_dim=5120, vocab=32128, context=512)
FLAN_T5_XXL = FLAN_T5_XL.but(dim=4096, heads=64, mlp_dim=10240)
