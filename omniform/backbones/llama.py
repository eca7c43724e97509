"""LLaMA (arXiv:2302.13971) and the many models that share its architecture.

Sizes are those of the released config.json files: meta-llama, lmsys, 01-ai, internlm, deepseek-ai, TinyLlama, mtgv,
HuggingFaceTB on the Hugging Face hub.
"""

from __future__ import annotations

from dataclasses import dataclass

from omniform.backbones.decoder import KEYS, SILU, Decoder
from omniform.frozen import FrozenMap


@dataclass(frozen=True, kw_only=True)
class Llama(Decoder):
    """RMSNorm, rotary positions, gated MLP.

    Attributes:
        attention_bias: whether the four linear layers of attention have biases (InternLM).
        neighbours: whether the weights are in the order of the original release, which rotates neighbouring channels
            of a head together (facebookresearch/llama@57b0eb6 llama/model.py:132-161), not a channel of each half.
    """

    abstract = False
    implementation = "omniform.backbones.llama_module:LlamaModule"
    model_type = "llama"
    keys = FrozenMap(KEYS, head_dim="head_dim", attention_bias="attention_bias")
    fixed = FrozenMap(SILU, mlp_bias=False)
    assumed = FrozenMap(dim=4096, layers=32, heads=32, mlp_dim=11008, vocab=32000, context=2048)

    norm_eps: float = 1e-6
    attention_bias: bool = False
    neighbours: bool = False

    @property
    def biases(self) -> frozenset[str]:
        return frozenset({"qkv", "out"}) if self.attention_bias else frozenset()


LLAMA_7B = Llama(name="LLaMA", dim=4096, layers=32, heads=32, kv_heads=32, mlp_dim=11008, vocab=32000, context=2048)
LLAMA_13B = LLAMA_7B.but(dim=5120, layers=40, heads=40, kv_heads=40, mlp_dim=13824)
LLAMA_33B = LLAMA_7B.but(dim=6656, layers=60, heads=52, kv_heads=52, mlp_dim=17920)
LLAMA_65B = LLAMA_7B.but(dim=8192, layers=80, heads=64, kv_heads=64, mlp_dim=22016)

LLAMA_2_7B = LLAMA_7B.but(name="LLaMA-2", context=4096, norm_eps=1e-5)
LLAMA_2_13B = LLAMA_13B.but(name="LLaMA-2", context=4096, norm_eps=1e-5)

LLAMA_3_8B = LLAMA_2_7B.but(
    name="LLaMA-3", kv_heads=8, mlp_dim=14336, vocab=128256, context=8192, rope_theta=500000.0
)  # fmt: skip
LLAMA_3_70B = LLAMA_3_8B.but(dim=8192, layers=80, heads=64, mlp_dim=28672)
LLAMA_3_1_8B = LLAMA_3_8B.but(
    name="LLaMA-3.1",
    context=131072,
    rope_scaling=FrozenMap(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    ),
)

# Vicuna v0, v1.1 and v1.3 are LLaMA; v1.5 is LLaMA-2 (lm-sys/FastChat docs/vicuna_weights_version.md)
VICUNA_V1_7B = LLAMA_7B.but(name="Vicuna")
VICUNA_V1_13B = LLAMA_13B.but(name="Vicuna")
VICUNA_7B = LLAMA_2_7B.but(name="Vicuna 1.5")
VICUNA_13B = LLAMA_2_13B.but(name="Vicuna 1.5")

YI_6B = LLAMA_2_7B.but(name="Yi", kv_heads=4, vocab=64000, rope_theta=5000000.0)
YI_34B = YI_6B.but(dim=7168, layers=60, heads=56, kv_heads=8, mlp_dim=20480)
HERMES_2_YI_34B = YI_34B.but(name="Hermes-2-Yi")

INTERNLM_7B = LLAMA_7B.but(name="InternLM", vocab=103168, attention_bias=True)
# the fused wqkv of the release is split by its layout
INTERNLM2_7B = LLAMA_2_7B.but(
    name="InternLM-2", kv_heads=8, mlp_dim=14336, vocab=92544, context=32768, rope_theta=1000000.0
)  # fmt: skip
INTERNLM2_20B = INTERNLM2_7B.but(dim=6144, layers=48, heads=48, mlp_dim=16384)

DEEPSEEK_7B = LLAMA_7B.but(name="DeepSeek LLM", layers=30, vocab=102400, context=16384)
DEEPSEEK_1_3B = DEEPSEEK_7B.but(dim=2048, layers=24, heads=16, kv_heads=16, mlp_dim=5632)

TINYLLAMA_1_1B = LLAMA_7B.but(
    name="TinyLLaMA", dim=2048, layers=22, kv_heads=4, mlp_dim=5632, norm_eps=1e-5
)  # fmt: skip
MOBILELLAMA_1_4B = LLAMA_7B.but(name="MobileLLaMA", dim=2048, layers=24, heads=16, kv_heads=16, mlp_dim=5632)
MOBILELLAMA_2_7B = LLAMA_7B.but(name="MobileLLaMA", dim=2560, mlp_dim=6912)

SMOLLM2_135M = Llama(
    name="SmolLM2", dim=576, layers=30, heads=9, kv_heads=3, mlp_dim=1536, vocab=49152, context=8192, norm_eps=1e-5,
    rope_theta=100000.0, tied=True,
)  # fmt: skip
