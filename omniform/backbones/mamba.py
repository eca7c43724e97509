"""Mamba (arXiv:2312.00752): a recurrent state in place of attention, through transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Self

from omniform.backbones.configured import Configured
from omniform.backbones.decoder import Linears
from omniform.frozen import FrozenMap
from omniform.parts import Shrunk

SHRUNK: Mapping[Shrunk, Mapping[str, int]] = FrozenMap(
    tiny=FrozenMap(dim=32, layers=2, vocab=128, context=512),
    nano=FrozenMap(dim=128, layers=4, vocab=256, context=2048),
)
STATE_BYTES = 4
"""Of one value of the state, which is kept in float32 as transformers and the original keep it."""


@dataclass(frozen=True, kw_only=True)
class Mamba(Configured):
    """Layers of a short causal convolution and a selective scan; what was read is a state of fixed size.

    A branch of a tree starts from the state that its trunk ended with, so trunks are shared exactly.

    Attributes:
        state: values of the state for each inner channel.
        conv: positions that the convolution sees, the own one included.
        expand: inner width / width.
        rank: width of the step sizes before their projection; None is a sixteenth of the width, rounded up.
        tied: whether the output head is the embedding.
        init_std: spread of fresh embeddings; None is transformers' own.
    """

    implementation = "omniform.backbones.mamba_module:MambaModule"
    memory = "state"
    model_type = "mamba"
    released = (("backbone.embedding.", "lm.backbone.embeddings."), ("", "lm."))  # as state-spaces names it, too
    keys: ClassVar[Mapping[str, str]] = FrozenMap(
        dim="hidden_size", layers="num_hidden_layers", vocab="vocab_size", state="state_size", conv="conv_kernel",
        expand="expand", rank="time_step_rank", norm_eps="layer_norm_epsilon", tied="tie_word_embeddings",
        context="max_position_embeddings",
    )  # fmt: skip
    fixed: ClassVar[Mapping[str, Any]] = FrozenMap(
        hidden_act="silu", use_bias=False, use_conv_bias=True, residual_in_fp32=True
    )
    assumed: ClassVar[Mapping[str, int]] = FrozenMap(dim=768, layers=32, vocab=50280, context=2048)
    layer_prefix: ClassVar[str] = "backbone.layers."

    state: int = 16
    conv: int = 4
    expand: int = 2
    rank: int | None = None
    norm_eps: float = 1e-5
    tied: bool = True
    init_std: float | None = None

    @property
    def inner(self) -> int:
        """Channels of the convolution and the scan."""
        return self.expand * self.dim

    @property
    def step_rank(self) -> int:
        return ceil(self.dim / 16) if self.rank is None else self.rank

    # -- cost --

    def linears(self) -> Linears:
        """(in, out) of the linear modules that every position of one layer passes through."""
        ends = {"in": [(self.dim, 2 * self.inner)], "out": [(self.inner, self.dim)]}
        return {**ends, "select": [(self.inner, self.step_rank + 2 * self.state), (self.step_rank, self.inner)]}

    def _linear_weights(self) -> int:
        return sum(a * b for pairs in self.linears().values() for a, b in pairs)

    def layer_params(self) -> int:
        """Parameters of one layer: linear weights, step biases, convolution with bias, A, D and the norm."""
        return self._linear_weights() + self.inner * (1 + self.conv + 1 + self.state + 1) + self.dim

    def embedding_params(self) -> int:
        """Parameters of the embedding and the output head."""
        return self.vocab * self.dim * self.tables

    @property
    def tables(self) -> int:
        return 1 if self.tied else 2

    def num_params(self) -> int:
        return self.embedding_params() + self.layers * self.layer_params() + self.dim

    def scan_flops(self) -> int:
        """Forward FLOPs of convolution and scan at one position of one layer.

        For each value of the state: exponent and exponential of its decay, its input, and a multiply-add each for the
        state and the output.
        """
        return self.inner * (2 * self.conv + 7 * self.state)

    def flops_per_position(self) -> int:
        return self.layers * (2 * self._linear_weights() + self.scan_flops())

    def attention_flops(self, queries: int, keys: int) -> int:
        return 0

    def kv_bytes_per_position(self, bytes_per_value: int) -> int:
        return 0

    def state_bytes(self, bytes_per_value: int) -> int:
        return self.layers * self.inner * (self.state * STATE_BYTES + (self.conv - 1) * bytes_per_value)

    def learnable_params(self, first_layer: int = 0) -> int:
        return max(self.layers - first_layer, 0) * self.layer_params() if first_layer else self.num_params()

    def lora_params(self, rank: int) -> int:
        return self.layers * rank * sum(a + b for pairs in self.linears().values() for a, b in pairs)

    def activation_values(self, learns: bool) -> int:
        # the scan runs again in the backward pass: its inputs are kept, its states are not; a convolution that learns
        # keeps what stood before each position
        norm = 3 if learns else 1
        selected = self.step_rank + 4 * self.state
        return norm * self.dim + selected + (9 + self.conv if learns else 8) * self.inner

    # -- sizes --

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(**SHRUNK[size], rank=None)

    # -- transformers --

    def config(self) -> dict[str, Any]:
        """Arguments of the family's transformers configuration."""
        sizes = {**self.sizes(), "time_step_rank": self.step_rank}
        # special tokens belong to the tokenizer; a padding id would keep its embedding row from learning
        ids = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
        fresh = {"initializer_range": self.init_std} if self.init_std else {}
        return {**self.fixed, **sizes, **ids, **fresh}

    @classmethod
    def fields_of(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Fields from a released (transformers) configuration.

        Raises:
            SpecError: the configuration contradicts what the family has fixed.
        """
        fields = super().fields_of(config)
        if fields.get("rank") in ("auto", ceil(fields["dim"] / 16)):
            fields["rank"] = None
        return fields


# state-spaces/mamba, table of pretrained models; vocabulary padded to a multiple of 8
MAMBA_130M = Mamba(name="Mamba", dim=768, layers=24, vocab=50280, context=2048)
MAMBA_370M = MAMBA_130M.but(dim=1024, layers=48)
MAMBA_790M = MAMBA_130M.but(dim=1536, layers=48)
MAMBA_1_4B = MAMBA_130M.but(dim=2048, layers=48)
MAMBA_2_8B = MAMBA_130M.but(dim=2560, layers=64)
MAMBA_2_8B_SLIMPJ = MAMBA_2_8B.but(name="Mamba-SlimPJ")
MAMBA_2_8B_ZEPHYR = MAMBA_2_8B.but(name="Mamba-Zephyr")
