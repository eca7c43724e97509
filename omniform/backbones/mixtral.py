"""Mixtral 8x7B (arXiv:2401.04088): every MLP is 8 experts, of which a router picks 2 for each position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from omniform.backbones.decoder import KEYS, SILU, Decoder, Linears
from omniform.frozen import FrozenMap

LOSS = "balance"
"""Name of the routers' loss."""


@dataclass(frozen=True, kw_only=True)
class Mixtral(Decoder):
    """Mistral with sparse experts.

    Attributes:
        experts: experts of each layer.
        chosen: experts that a position passes through.
        balance: factor of the loss that keeps experts evenly used, summed over all chosen experts, with means over a
            document's positions in all layers (transformers' `load_balancing_loss_func`, arXiv:2101.03961 equation 4).
            Released configurations name one, but it is only added where `output_router_logits` says so; 0 is none.
    """

    implementation = "omniform.backbones.mixtral_module:MixtralModule"

    abstract = False
    model_type = "mixtral"
    mlp_name = ""  # its router notes what every position chose
    keys = FrozenMap(KEYS, head_dim="head_dim", experts="num_local_experts", chosen="num_experts_per_tok")
    fixed = FrozenMap(SILU, sliding_window=None)
    assumed = FrozenMap(dim=4096, layers=32, heads=32, kv_heads=8, mlp_dim=14336, vocab=32000, context=131072)

    rope_theta: float = 1000000.0
    experts: int = 8
    chosen: int = 2
    balance: float = 0.0

    @property
    def losses(self) -> Mapping[str, float]:
        return FrozenMap({LOSS: self.balance} if self.balance else {})

    def linears(self) -> Linears:
        # experts are not linear modules but stacked weights
        return {group: pairs for group, pairs in super().linears().items() if group != "mlp"}

    @property
    def expert_params(self) -> int:
        return 3 * self.dim * self.mlp_dim

    @property
    def active_mlp_dim(self) -> int:
        return self.chosen * self.mlp_dim

    def layer_params(self) -> int:
        return super().layer_params() + self.experts * (self.expert_params + self.dim)

    def active_params(self) -> int:
        return self.num_params() - self.layers * (self.experts - self.chosen) * self.expert_params

    def active_layer_params(self) -> int:
        return super().active_layer_params() + self.chosen * self.expert_params + self.experts * self.dim


MIXTRAL_8X7B = Mixtral(
    name="Mixtral", dim=4096, layers=32, heads=32, kv_heads=8, mlp_dim=14336, vocab=32000, context=32768
)
