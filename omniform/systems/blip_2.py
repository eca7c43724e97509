"""BLIP-2: EVA-CLIP ViT-g/14 -> Q-Former -> OPT; answers in text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.opt import OPT_2_7B, OPT_6_7B
from omniform.connectors.qformer import QFormer
from omniform.decoders.text import Text
from omniform.encoders.eva_vit import EVA_G_224, EVA_G_364
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems._llava_release import backbone_of
from omniform.views.fixed import Fixed

CONNECTOR = "inputs.image.connector."
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
# eva_vit_g.pth, which the code fetches from a server of its own (lavis/models/eva_vit.py:442-447)
SEPARATE: Mapping[str, str] = FrozenMap({"inputs.image.encoder.": "eva_vit_g", "backbone.lm.": "facebook/opt-2.7b"})
LARGE = {"backbone": OPT_6_7B, "layout.separate": {**SEPARATE, "backbone.lm.": "facebook/opt-6.7b"}}
CAPTIONS = {"inputs.image.encoder": EVA_G_364, "prompt": PHOTO, "stages": (GENERATE, COCO)}

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
    layout=Layout(
        rules=(
            ("visual_encoder.", "inputs.image.encoder."),
            ("ln_vision.", CONNECTOR + "norm."),
            ("query_tokens", CONNECTOR + "query_tokens"),
            ("Qformer.bert.", CONNECTOR + "bert."),
            ("opt_proj.", CONNECTOR + "proj."),
            ("opt_model.", "backbone.lm."),
        ),
        separate=SEPARATE,
        architectures=("Blip2ForConditionalGeneration",),
    ),
    source=Source(
        paper="arXiv:2301.12597",
        code="salesforce/LAVIS@506965b",
        notes="Before stage `generate` the Q-Former learns beside text, without a language model: contrast, matching "
        "and captions (connectors/qformer_objectives_module.py; pretrain_stage1.yaml: lr 1e-4, 10 epochs, weight decay "
        "0.05, 1,600 pairs a step). The releases saw 129 million pictures. Pictures are random crops of at least half "
        "in training; the learning rate ends at a tenth of its peak. VQAv2 is asked with 'Short answer:' "
        "(vqav2_zeroshot_opt_eval.yaml). The sizes on Flan-T5 are not here.",
    ),
    published_params={
        "image.encoder": 985894528, "image.connector": 107133696, "backbone": 2651596800, "total": 3744625024,
    },
    variants={
        "opt-6.7b": LARGE,
        "coco-opt-2.7b": CAPTIONS,
        "coco-opt-6.7b": {**LARGE, **CAPTIONS},
    },
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
    encoder = image.encoder.but(**_said(config.get("vision_config", {}), vision))
    connector = image.connector.but(
        **_said(config, {"positions": "num_query_tokens"}), **_said(config.get("qformer_config", {}), former)
    )
    return replace(
        SYSTEM,
        inputs={"image": replace(image, encoder=encoder, connector=connector)},
        backbone=backbone_of(SYSTEM.backbone, config["text_config"]),
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )


def _said(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Fields under their keys in a configuration, as far as it says them."""
    return {field: config[key] for field, key in names.items() if key in config}
