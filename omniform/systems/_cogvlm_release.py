"""What CogVLM and its successors release alike: EVA2-CLIP behind one prefix, experts beside the language's modules.

Queries, keys and values of both are one tensor there; the rows before and after a picture are (1, 1, width).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omniform.frozen import FrozenMap
from omniform.parts import Encoder, Rules
from omniform.prompt import Prompt
from omniform.spec import Joined, Recast
from omniform.views.fixed import Fixed

LLM, FUSION = "backbone.lm.model.", "inputs.image.fusion."
ENCODER, CONNECTOR, ROWS = "inputs.image.encoder.", "inputs.image.connector.", "inputs.image.learned."
LAYERS = 32
QKV = Joined(parts=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), whole="self_attn.qkv_proj")
SIGNS = Recast(ends=("learned.boi", "learned.eoi"), form="lone row")
SQUASHED = Fixed(fit="squash", begin="boi", newline="eoi", still=True)

# THUDM/CogVLM@f7283b2 utils/utils/language.py:1-27, 69-134: answers are tokenized by themselves, and of a
# conversation the last one ends; a picture stands before everything
BASE = Prompt(
    user="{media}{text}", header="", answer="{text}</s>", media={"image": "{media}"}, learned_apart=True, stop=("</s>",)
)
VQA = Prompt(
    user="{media}Question: {text} ", header="Short answer:", answer="{text}</s>", media={"image": "{media}"},
    learned_apart=True, stop=("</s>",),
)  # fmt: skip
CHAT = Prompt(
    user="{media}Question: {text} ", header="Answer:", answer=" {text}\n", last_answer="{text}</s>",
    media={"image": "{media}"}, learned_apart=True, stop=("</s>",),
)  # fmt: skip


def vision_rules(prefix: str) -> Rules:
    """Picture signs, connector and encoder."""
    return (
        (f"{prefix}boi", f"{ROWS}boi"), (f"{prefix}eoi", f"{ROWS}eoi"), (f"{prefix}conv.", f"{CONNECTOR}conv."),
        (f"{prefix}linear_proj.", CONNECTOR), (prefix, ENCODER),
    )  # fmt: skip


def expert_rules(layers: int = LAYERS) -> Rules:
    """The layout for transformers' remote code: experts and language side by side in each module."""
    inside = (
        ("self_attn.vision_expert_query_key_value.", f"{FUSION}layers.{{}}.self_attn.qkv_proj."),
        ("self_attn.vision_expert_dense.", f"{FUSION}layers.{{}}.self_attn.o_proj."),
        ("mlp.vision_mlp.", f"{FUSION}layers.{{}}.mlp."),
        ("self_attn.language_expert_query_key_value.", f"{LLM}layers.{{}}.self_attn.qkv_proj."),
        ("self_attn.language_expert_dense.", f"{LLM}layers.{{}}.self_attn.o_proj."),
        ("mlp.language_mlp.", f"{LLM}layers.{{}}.mlp."),
    )
    each = ((f"model.layers.{i}.{a}", b.format(i)) for i in range(layers) for a, b in inside)
    return (*vision_rules("model.vision."), *each, ("model.", LLM), ("lm_head.", "backbone.lm.lm_head."))


VISION_KEYS: Mapping[str, str] = FrozenMap(
    width="hidden_size", layers="num_hidden_layers", heads="num_heads", mlp_dim="intermediate_size",
    patch="patch_size", image="image_size", norm_eps="layer_norm_eps", activation="hidden_act",
)  # fmt: skip


def encoder_of(encoder: Encoder, config: Mapping[str, Any]) -> Encoder:
    """The encoder as "vision_config" of a release has it."""
    own = config.get("vision_config", {})
    return encoder.but(**{field: own[key] for field, key in VISION_KEYS.items() if key in own})
