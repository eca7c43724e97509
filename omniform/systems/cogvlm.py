"""CogVLM: EVA2-CLIP-E -> gated MLP -> Vicuna, whose layers have weights of their own for pictures."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import VICUNA_7B
from omniform.connectors.glu import Glu
from omniform.decoders.text import Text
from omniform.encoders.eva2_clip import EVA2_CLIP_E_224, EVA2_CLIP_E_490
from omniform.frozen import FrozenMap
from omniform.fusion.visual_expert import VisualExpert
from omniform.parts import Rules
from omniform.prompt import Places, Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems import _cogvlm_release as family
from omniform.systems._cogvlm_release import BASE, CHAT, ENCODER, FUSION, LLM
from omniform.systems._llava_release import backbone_of

CAPTION = replace(BASE, user="{media}")
# README.md:566-592: boxes in thousandths, in questions as in answers
GROUNDING = replace(BASE, places=Places(whole=3, opening="[[", closing="]]", between=",", among=";"))

EXPERT = ("image.connector", "image.fusion")
UNCHECKED = Undisclosed("not in the released code; what the appendix of arXiv:2311.03079 says was not checked")
PAIRS = Stage(
    name="pretrain",
    learn=tuple(Learn(part=part, lr=UNCHECKED) for part in EXPERT),
    data="laion-2b, coyo-700m: 1.5 billion pairs",
    batch=8192,
    steps=120000,
    schedule=UNCHECKED,
    warmup=UNCHECKED,
    weight_decay=UNCHECKED,
    max_positions=UNCHECKED,
    prompt=CAPTION,
    source="arXiv:2311.03079 section 2.3 (224 pixels)",
)
BOXES = replace(
    PAIRS,
    name="ground",
    data="captions, and 40 million pictures of which words are located",
    batch=1024,
    steps=60000,
    prompt=GROUNDING,
    source="arXiv:2311.03079 section 2.3 (490 pixels in the last 30,000 steps)",
)
TUNE = replace(
    PAIRS,
    name="tune",
    learn=(*(Learn(part=part, lr=1e-5) for part in EXPERT), Learn(part="backbone", lr=1e-6)),
    data="cogvlm-sft-311k, and question answering of many sources",
    batch=640,
    steps=8000,
    prompt=None,
    source="arXiv:2311.03079 section 2.4; dataset.md",
)

SAT_VISION = "mixins.eva.vit_model."
SAT_LAYER: Mapping[str, str] = FrozenMap({
    "mixins.rotary.vision_query_key_value_list.{}.": FUSION + "layers.{}.self_attn.qkv_proj.",
    "mixins.rotary.vision_dense_list.{}.": FUSION + "layers.{}.self_attn.o_proj.",
    "mixins.mlp.vision_gate_proj.{}.": FUSION + "layers.{}.mlp.gate_proj.",
    "mixins.mlp.vision_dense_h_to_4h_list.{}.": FUSION + "layers.{}.mlp.up_proj.",
    "mixins.mlp.vision_dense_4h_to_h_list.{}.": FUSION + "layers.{}.mlp.down_proj.",
    "mixins.mlp.gate_proj.{}.": LLM + "layers.{}.mlp.gate_proj.",
    "transformer.layers.{}.attention.query_key_value.": LLM + "layers.{}.self_attn.qkv_proj.",
    "transformer.layers.{}.attention.dense.": LLM + "layers.{}.self_attn.o_proj.",
    "transformer.layers.{}.mlp.dense_h_to_4h.": LLM + "layers.{}.mlp.up_proj.",
    "transformer.layers.{}.mlp.dense_4h_to_h.": LLM + "layers.{}.mlp.down_proj.",
})  # fmt: skip
"""Keys of SwissArmyTransformer, for each layer."""


def sat_rules(layers: int, encoder_layers: int) -> Rules:
    """The original layout: everything beyond a plain transformer lies under "mixins"."""
    mlp = (("dense_h_to_4h.", "fc1."), ("dense_4h_to_h.", "fc2."))
    seen = "transformer.layers.{}.mlp."
    return (
        *((a.format(i), b.format(i)) for i in range(layers) for a, b in SAT_LAYER.items()),
        ("transformer.layers.", LLM + "layers."),
        ("transformer.word_embeddings.", LLM + "embed_tokens."),
        ("transformer.final_layernorm.", LLM + "norm."),
        ("mixins.lm.lm_head.", "backbone.lm.lm_head."),
        *(
            (SAT_VISION + seen.format(i) + a, ENCODER + seen.format(i) + b)
            for i in range(encoder_layers)
            for a, b in mlp
        ),
        (SAT_VISION + "transformer.word_embeddings.weight", ENCODER + "patch_embedding.cls_embedding"),
        (SAT_VISION + "transformer.position_embeddings.", ENCODER + "patch_embedding.position_embedding."),
        (SAT_VISION + "mixins.patch_embedding.", ENCODER + "patch_embedding."),
        (SAT_VISION, ENCODER),
        *family.vision_rules("mixins.eva.")[:-1],
    )


SAT = sat_rules(family.LAYERS, EVA2_CLIP_E_490.layers)
LAYOUT = Layout(
    rules=(*SAT, *family.expert_rules()),
    architectures=("CogVLMForCausalLM",),
    recast=(family.SIGNS,),
    joined=(family.QKV,),
)
"""As the checkpoints of SwissArmyTransformer; those for transformers are read, too."""
CONVERTED = replace(LAYOUT, rules=(*family.expert_rules(), *SAT))


def of(prompt: Prompt, **more: Any) -> dict[str, Any]:
    """A variant whose prompt differs."""
    return {"prompt": prompt, **more}


SMALL = {"inputs.image.encoder": EVA2_CLIP_E_224, "published_params": {"total": 17637948928}}

SYSTEM = System(
    slug="cogvlm",
    title="CogVLM",
    date="2023/11",
    inputs={
        "image": Continuous(encoder=EVA2_CLIP_E_490, connector=Glu(), views=family.SQUASHED, fusion=VisualExpert())
    },
    backbone=VICUNA_7B,
    outputs={"text": Text()},
    prompt=CHAT,
    stages=(PAIRS, BOXES, TUNE),
    layout=LAYOUT,
    source=Source(
        paper="arXiv:2311.03079",
        code="THUDM/CogVLM@f7283b2",
        notes="The base is cogvlm-chat-v1.1, asked as README.md:598-606 says (chat_old); `vqa` is the same weights "
        "asked for short answers. Positions for 490 pixels were interpolated from those for 224 in the middle of the "
        "second stage; here a size of its own. The demonstration of LoRA (finetune_demo) adapts layers of encoder and "
        "language model at once, and is no stage here. A picture stands before the words of its turn; only one a "
        "conversation was trained.",
    ),
    published_params={
        "image.encoder": 4282600000, "image.connector": 142600000, "image.fusion": 6476000000, "total": 17639685376,
    },
    variants={
        "chat-hf": {"layout": CONVERTED},
        "vqa": of(family.VQA),
        "base-490": of(BASE),
        "base-224": of(BASE, **SMALL),
        "grounding-base": of(GROUNDING),
        "grounding-generalist": of(GROUNDING),
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json for transformers has it."""
    image = SYSTEM.continuous("image")
    encoder = family.encoder_of(image.encoder, config)
    connector = Glu(mlp_dim=config["intermediate_size"])
    return replace(
        SYSTEM,
        inputs={"image": replace(image, encoder=encoder, connector=connector)},
        backbone=backbone_of(SYSTEM.backbone, config),
        prompt={"base": BASE}.get(config.get("template_version", "chat"), CHAT),
        layout=CONVERTED,
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )
