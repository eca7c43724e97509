"""BLIP-2: EVA-CLIP ViT-g/14 -> Q-Former -> OPT or Flan-T5; answers in text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.opt import OPT_2_7B, OPT_6_7B
from omniform.backbones.t5 import FLAN_T5_XL, FLAN_T5_XXL, T5
from omniform.connectors.qformer import QFormer
from omniform.decoders.text import Text
from omniform.encoders.eva_vit import EVA_G_224, EVA_G_364
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.parts import Backbone, Rules
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems._llava_release import backbone_of
from omniform.views.fixed import Fixed

ENCODER, CONNECTOR = "inputs.image.encoder.", "inputs.image.connector."
IMAGE: Mapping[str, str] = FrozenMap(image="{media}")
# OPT's tokenizer begins every text with </s>, also behind a picture; the new line that ends an answer stops generation
# (lavis/models/blip2_models/blip2_opt.py:84-87, 120-140). Earlier questions and answers of a conversation: arXiv
# section 4.1 and examples/blip2_instructed_generation.ipynb.
QUESTION = Prompt(
    first_user="{media}</s>Question: {text} Answer:",
    user="{media} Question: {text} Answer:",
    header="",
    answer=" {text}.",
    last_answer=" {text}\n",
    media=IMAGE,
    bos=False,
    stop=("\n",),
)
# the same file:122-136: the sign that begins the caption is predicted too
CAPTION = Prompt(
    user="{media}", header="</s>", learn_header=True, answer="{text}\n", media=IMAGE, bos=False, stop=("\n",)
)
# the same with words before it, which are not predicted (lavis/configs/models/blip2/blip2_caption_opt2.7b.yaml:29)
PHOTO = Prompt(user="{media}", header="</s>a photo of", answer=" {text}\n", media=IMAGE, bos=False, stop=("\n",))

GENERATE = Stage(
    name="generate",
    learn=(Learn(part="image.connector", lr=1e-4),),
    data="coco-captions, visual-genome-captions",
    batch=1024,
    epochs=10.0,
    warmup=Undisclosed("2,000 steps, however many there are"),
    weight_decay=0.05,
    clip_norm=0.0,
    max_positions=64,
    prompt=CAPTION,
    source="lavis/projects/blip2/train/pretrain_stage2.yaml, run_scripts/blip2/train/pretrain_stage2.sh",
)
COCO = Stage(
    name="captions",
    learn=(Learn(part="image.encoder", lr=1e-5), Learn(part="image.connector", lr=1e-5)),
    data="coco-captions",
    batch=256,
    epochs=5.0,
    warmup=Undisclosed("1,000 steps, however many there are"),
    weight_decay=0.05,
    clip_norm=0.0,
    max_positions=64,
    source="lavis/projects/blip2/train/caption_coco_ft.yaml, run_scripts/blip2/train/train_caption_coco.sh",
)
# Flan-T5's encoder reads the picture and the words with the </s> that its tokenizer ends every text with, its decoder
# gives the answer and another (lavis/models/blip2_models/blip2_t5.py:117-160, 232-262)
T5_QUESTION = Prompt(
    first_user="{media}Question: {text} Answer:",
    user="{media} Question: {text} Answer:",
    header="",
    answer=" {text}.",
    last_answer="{text}</s>",
    asked="</s>",
    media=IMAGE,
    bos=False,
)
# arXiv section 3.3 begins captions with a part of theirs as the prompt; where they are cut was not published
T5_CAPTION = Prompt(user="{media}", header="", answer="{text}</s>", asked="</s>", media=IMAGE, bos=False)
# lavis/configs/models/blip2/blip2_caption_flant5xl.yaml: prompt
T5_PHOTO = Prompt(user="{media}", header="a photo of", answer="{text}</s>", asked="</s>", media=IMAGE, bos=False)

# eva_vit_g.pth, which the code fetches from a server of its own (lavis/models/eva_vit.py:442-447)
SEPARATE: Mapping[str, str] = FrozenMap({ENCODER: "eva_vit_g", "backbone.lm.": "facebook/opt-2.7b"})
LARGE = {"backbone": OPT_6_7B, "layout.separate": {**SEPARATE, "backbone.lm.": "facebook/opt-6.7b"}}
CAPTIONS = {"inputs.image.encoder": EVA_G_364, "prompt": PHOTO, "stages": (GENERATE, COCO)}


def rules(projection: str, language_model: str) -> Rules:
    """Key rules of LAVIS."""
    return (
        ("visual_encoder.", ENCODER),
        ("ln_vision.", CONNECTOR + "norm."),
        ("query_tokens", CONNECTOR + "query_tokens"),
        ("Qformer.bert.", CONNECTOR + "bert."),
        (projection, CONNECTOR + "proj."),
        (language_model, "backbone.lm."),
    )


def ported_rules(encoder_layers: int, former_layers: int) -> Rules:
    """Key rules of transformers' Blip2ForConditionalGeneration, whose releases hold every weight."""
    names = (
        ("layer_norm1.", "norm1."), ("self_attn.qkv.", "attn.qkv."), ("self_attn.projection.", "attn.proj."),
        ("layer_norm2.", "norm2."), ("mlp.", "mlp."),
    )  # fmt: skip
    blocks = ((i, a, b) for i in range(encoder_layers) for a, b in names)
    kinds = [(i, kind) for i in range(former_layers) for kind in ("attention", "crossattention")]
    layer = "encoder.layer."
    return (
        ("vision_model.embeddings.class_embedding", ENCODER + "cls_token"),
        ("vision_model.embeddings.position_embedding", ENCODER + "pos_embed"),
        ("vision_model.embeddings.patch_embedding.", ENCODER + "patch_embed.proj."),
        *((f"vision_model.encoder.layers.{i}.{a}", f"{ENCODER}blocks.{i}.{b}") for i, a, b in blocks),
        ("vision_model.post_layernorm.", CONNECTOR + "norm."),
        ("query_tokens", CONNECTOR + "query_tokens"),
        ("qformer.layernorm.", CONNECTOR + "bert.embeddings.LayerNorm."),
        *((f"qformer.{layer}{i}.{k}.attention.", f"{CONNECTOR}bert.{layer}{i}.{k}.self.") for i, k in kinds),
        ("qformer.", CONNECTOR + "bert."),
        ("language_projection.", CONNECTOR + "proj."),
        ("language_model.", "backbone.lm."),
    )


PORT = Layout(rules=ported_rules(EVA_G_224.layers, QFormer().layers), architectures=("Blip2ForConditionalGeneration",))
PORTED = {"layout": PORT, "inputs.image.encoder": EVA_G_224.but(key_bias=True)}
PORTED_364 = {**PORTED, "inputs.image.encoder": EVA_G_364.but(key_bias=True)}
# LAVIS runs Flan-T5's gate with the exact GELU, which it was not trained with (blip2_t5.py:82)
XL, XXL = FLAN_T5_XL.but(activation="gelu"), FLAN_T5_XXL.but(activation="gelu")
COUNTS = {"image.encoder": 985894528, "image.connector": 106739968, "backbone": 2849757184}
FLAN = {
    "backbone": XL, "prompt": T5_QUESTION, "stages": (replace(GENERATE, prompt=T5_CAPTION),),
    "layout.rules": rules("t5_proj.", "t5_model."),
    "layout.separate": {**SEPARATE, "backbone.lm.": "google/flan-t5-xl"}, "published_params": COUNTS,
}  # fmt: skip
FLAN_LARGE = {
    **FLAN, "backbone": XXL, "layout.separate": {**SEPARATE, "backbone.lm.": "google/flan-t5-xxl"},
    "published_params": {**COUNTS, "image.connector": 108314880, "backbone": 11135332352},
}  # fmt: skip
FLAN_CAPTIONS = {**CAPTIONS, "prompt": T5_PHOTO, "stages": (*FLAN["stages"], COCO)}  # type: ignore[misc]
SIZES: Mapping[str, Mapping[str, Any]] = FrozenMap({
    "opt-6.7b": LARGE,
    "coco-opt-2.7b": CAPTIONS,
    "coco-opt-6.7b": {**LARGE, **CAPTIONS},
    "flan-t5-xl": FLAN,
    "flan-t5-xxl": FLAN_LARGE,
    "coco-flan-t5-xl": {**FLAN, **FLAN_CAPTIONS},
})  # fmt: skip


def ported(sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sizes as transformers' checkpoints hold them."""
    whole = {n: {k: v for k, v in size.items() if not k.startswith("layout.")} for n, size in sizes.items()}
    return {
        f"hf-{n}": {**size, **(PORTED_364 if "inputs.image.encoder" in size else PORTED)} for n, size in whole.items()
    }


SYSTEM = System(
    slug="blip-2",
    title="BLIP-2",
    date="2023/01",
    inputs={
        "image": Continuous(encoder=EVA_G_224, connector=QFormer(), views=Fixed(fit="squash"), fusion=Splice())
    },
    backbone=OPT_2_7B,
    outputs={"text": Text()},
    prompt=QUESTION,
    stages=(GENERATE,),
    layout=Layout(rules=rules("opt_proj.", "opt_model."), separate=SEPARATE),
    source=Source(
        paper="arXiv:2301.12597",
        code="salesforce/LAVIS@506965b",
        notes="Before stage `generate` the Q-Former learns beside text, without a language model: contrast, matching "
        "and captions (connectors/qformer_objectives_module.py; pretrain_stage1.yaml: lr 1e-4, 10 epochs, weight decay "
        "0.05, 1,600 pairs a step). The releases saw 129 million pictures. Pictures are random crops of at least half "
        "in training; the learning rate ends at a tenth of its peak. VQAv2 is asked with 'Short answer:' "
        "(vqav2_zeroshot_opt_eval.yaml). Flan-T5 learned captions of which its encoder read a beginning; where "
        "they were cut was not published, and here it reads none of them. The sizes on CLIP ViT-L are not here.",
    ),
    published_params={
        "image.encoder": 985894528, "image.connector": 107133696, "backbone": 2651596800, "total": 3744625024,
    },
    variants={**SIZES, **ported({"opt-2.7b": {}, **SIZES})},
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it, in its "vision_config", "qformer_config" and "text_config".

    Numbers that it leaves out stay as they are here.
    """
    image = SYSTEM.continuous("image")
    vision = {
        "width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads", "image": "image_size",
        "mlp_dim": "intermediate_size", "patch": "patch_size", "norm_eps": "layer_norm_eps", "activation": "hidden_act",
    }  # fmt: skip
    former = {
        "width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
        "mlp_dim": "intermediate_size", "cross_every": "cross_attention_frequency", "norm_eps": "layer_norm_eps",
        "dropout": "hidden_dropout_prob",
    }  # fmt: skip
    is_ported = "Blip2ForConditionalGeneration" in (config.get("architectures") or ())
    text: Mapping[str, Any] = config["text_config"]
    size = SYSTEM.variant("flan-t5-xl") if text.get("model_type") == "t5" else SYSTEM
    encoder: Any = image.encoder.but(**_said(config.get("vision_config", {}), vision), key_bias=is_ported)
    connector: Any = image.connector.but(
        **_said(config, {"positions": "num_query_tokens"}), **_said(config.get("qformer_config", {}), former)
    )
    layout = replace(PORT, rules=ported_rules(encoder.layers, connector.layers)) if is_ported else size.layout
    return replace(
        size,
        inputs={"image": replace(image, encoder=encoder, connector=connector)},
        backbone=_backbone(size.backbone, text),
        layout=layout,
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )


def _backbone(backbone: Backbone, config: Mapping[str, Any]) -> Backbone:
    """The language model's sizes."""
    if isinstance(backbone, T5):
        return T5.from_config(config, name=backbone.name, context=backbone.context)
    return backbone_of(backbone, config)


def _said(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Fields under their keys in a configuration, as far as it says them."""
    return {field: config[key] for field, key in names.items() if key in config}
