"""Qwen, the first of its name, under the names of its release (QwenLM/Qwen-Audio@b50fb95 modeling_qwen.py)."""

from collections.abc import Mapping
from typing import Any

from omniform.frozen import FrozenMap
from omniform.parts import Rules

QWEN_LAYER: Mapping[str, str] = FrozenMap({
    "ln_1.": "input_layernorm.", "ln_2.": "post_attention_layernorm.", "attn.c_attn.": "self_attn.c_attn.",
    "attn.c_proj.": "self_attn.o_proj.",
})  # fmt: skip
QWEN_MLP: Mapping[str, str] = FrozenMap({"w1.": "up_proj.", "w2.": "gate_proj.", "c_proj.": "down_proj."})
RENAMED: Mapping[str, str] = FrozenMap({"layer_norm_epsilon": "rms_norm_eps", "rotary_emb_base": "rope_theta"})


def language_rules(layers: int) -> Rules:
    """Key rules of a language model of so many layers."""
    layer = {**QWEN_LAYER, **{f"mlp.{a}": f"mlp.{b}" for a, b in QWEN_MLP.items()}}
    plain = (
        (f"transformer.h.{i}.{a}", f"backbone.lm.model.layers.{i}.{b}") for i in range(layers) for a, b in layer.items()
    )
    ends = (("transformer.wte.", "backbone.lm.model.embed_tokens."), ("transformer.ln_f.", "backbone.lm.model.norm."))
    return (*plain, *ends, ("", "backbone.lm."))


def language_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Its config.json in the words of transformers' Qwen2; the width of the MLP counts both branches there."""
    renamed = {new: config[old] for old, new in RENAMED.items() if old in config}
    halved = {"intermediate_size": config["intermediate_size"] // 2} if "intermediate_size" in config else {}
    heads = {"num_key_value_heads": config.get("num_attention_heads")}
    return {**config, **renamed, **halved, **heads}
