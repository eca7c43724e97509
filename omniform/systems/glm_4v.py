"""GLM-4V: EVA2-CLIP-E at 1120 pixels -> convolution and gated MLP, an eighth of it -> GLM-4."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.glm import GLM_4_9B
from omniform.connectors.conv_glu import ConvGlu
from omniform.decoders.text import Text
from omniform.encoders.eva2_clip import EVA2_CLIP_E_490
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.parts import Rules
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems import _cogvlm_release as family
from omniform.systems._llava_release import backbone_of

LLM = family.LLM
# what the tokenizer's chat template gives, which puts ids of roles, new lines and words beside one another; learned as
# finetune/finetune_vision.py:207-265 does, where the sign after the last answer is not
CHAT = Prompt(
    first_user="[gMASK]<sop>{system}<|user|>\n{media}{text}",
    system_turn="<|system|>\n{system}",
    user="<|user|>\n{media}{text}",
    header="<|assistant|>",
    learn_header=True,
    answer="\n{text}",
    media={"image": "{media}"},
    bos=False,
    piecewise=True,
    stop=("<|user|>", "<|observation|>", "<|endoftext|>"),
)
TUNE = Stage(
    name="tune",
    learn=(Learn(part="backbone", lr=5e-5),),
    data="conversations about one picture each",
    batch=Undisclosed("one document on each GPU, of which the number is not said"),
    steps=3000,
    schedule="linear",
    warmup=0.0,
    max_positions=512 + 512 - 3 + 1602,
    source="THUDM/GLM-4@3f79b54 finetune/configs/sft.yaml, finetune/finetune_vision.py",
)

LAYER = {
    "self_attention.query_key_value.": "self_attn.qkv_proj.",
    "self_attention.dense.": "self_attn.o_proj.",
    "mlp.dense_h_to_4h.": "mlp.gate_up_proj.",
    "mlp.dense_4h_to_h.": "mlp.down_proj.",
}


def rules(layers: int) -> Rules:
    """Keys of the released modeling files."""
    stem = "transformer.encoder.layers."
    inside = ((f"{stem}{i}.{a}", f"{LLM}layers.{i}.{b}") for i in range(layers) for a, b in LAYER.items())
    return (
        *family.vision_rules("transformer.vision."),
        *inside,
        (stem, f"{LLM}layers."),
        ("transformer.encoder.final_layernorm.", f"{LLM}norm."),
        ("transformer.embedding.word_embeddings.", f"{LLM}embed_tokens."),
        ("transformer.output_layer.", "backbone.lm.lm_head."),
    )


def layout(divisor: float) -> Layout:
    """As released; the signs before and after a picture are divided there each time, as what the connector gives."""
    return Layout(
        rules=rules(GLM_4_9B.layers),
        recast=(replace(family.SIGNS, divisor=divisor),),
        joined=(replace(family.QKV, under="backbone."),),
    )


SYSTEM = System(
    slug="glm-4v",
    title="GLM-4V",
    date="2024/06",
    inputs={
        "image": Continuous(
            encoder=EVA2_CLIP_E_490.but(image=1120),
            connector=ConvGlu(mlp_dim=13696, widened=True, divisor=8.0),
            views=family.SQUASHED,
            fusion=Splice(),
        )
    },
    backbone=GLM_4_9B,
    outputs={"text": Text()},
    prompt=CHAT,
    stages=(TUNE,),
    layout=layout(8.0),
    source=Source(
        paper="arXiv:2408.16500",
        code="THUDM/GLM-4@3f79b54; OpenDocCN/python-code-anls docs/chatglm4v-9b (copied modeling files)",
        notes="Sizes are recalled from the released configuration, not read there: 9B's layers, rotary base 10000 and "
        "8192 positions. Only the published tuning is a stage, with the encoder and the connector frozen (freezeV); "
        "how the model came to be is not told in numbers. One picture a conversation; in the text three tokens mark "
        "its place, which its rows replace.",
    ),
    published_params={"image.encoder": 4291915264, "image.connector": 214446080, "total": 13906320896},
    survey_notes={"modality_encoder": "the survey leaves out that it is the second EVA-CLIP"},
)  # fmt: skip

CALLED: Mapping[str, str] = FrozenMap(
    hidden_size="hidden_size", num_hidden_layers="num_layers", num_attention_heads="num_attention_heads",
    num_key_value_heads="multi_query_group_num", intermediate_size="ffn_hidden_size", head_dim="kv_channels",
    vocab_size="padded_vocab_size", max_position_embeddings="seq_length", rms_norm_eps="layernorm_epsilon",
    attention_bias="add_qkv_bias",
)  # fmt: skip
"""transformers' keys -> the release's."""


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it; rotary base 10000 times "rope_ratio"."""
    image, vision = SYSTEM.continuous("image"), config["vision_config"]
    language = {ours: config[theirs] for ours, theirs in CALLED.items() if theirs in config}
    divisor = float(vision.get("scaling_factor", 8))
    encoder = family.encoder_of(image.encoder, config)
    connector = image.connector.but(mlp_dim=config["ffn_hidden_size"], divisor=divisor)
    return replace(
        SYSTEM,
        inputs={"image": replace(image, encoder=encoder, connector=connector)},
        backbone=backbone_of(SYSTEM.backbone, {**language, "rope_theta": 10000.0 * config.get("rope_ratio", 1)}),
        layout=layout(divisor),
        published_params=FrozenMap(),
    )
