"""Phi-1.5 (arXiv:2309.05463) and Phi-2: attention and MLP side by side after one norm, biases everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.backbones.decoder import KEYS, Decoder
from omniform.frozen import FrozenMap


@dataclass(frozen=True, kw_only=True)
class Phi(Decoder):
    """Parallel blocks, LayerNorm, plain MLP, rotary positions on a part of each head.

    Attributes:
        head_bias: whether the output head has a bias; some systems were trained on a Phi without
            (BAAI-DCAI/Bunny bunny/model/language_model/phi/modeling_phi.py).
    """

    abstract = False
    implementation = "omniform.backbones.phi_module:PhiModule"
    model_type = "phi"
    keys = FrozenMap(KEYS, norm_eps="layer_norm_eps")
    fixed = FrozenMap(hidden_act="gelu_new", qk_layernorm=False)
    assumed = FrozenMap(dim=2048, layers=24, heads=32, mlp_dim=8192, vocab=51200, context=2048)
    gated_mlp = False
    norm_params = 2
    norms_per_layer = 1

    rotary: float = 0.5
    head_bias: bool = True

    @property
    def biases(self) -> frozenset[str]:
        return frozenset({"qkv", "out", "mlp"} | ({"head"} if self.head_bias else set()))

    def activation_values(self, learns: bool) -> int:
        # transformers writes gelu_new out: input, cube, tanh and a product are kept
        return super().activation_values(learns) + 3 * self.mlp_dim


PHI_1_5 = Phi(name="Phi-1.5", dim=2048, layers=24, heads=32, kv_heads=32, mlp_dim=8192, vocab=51200, context=2048)
PHI_2 = PHI_1_5.but(name="Phi-2", dim=2560, layers=32, mlp_dim=10240, rotary=0.4)
