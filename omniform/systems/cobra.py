"""Cobra: DINOv2 + SigLIP at 384 px, joined on channels -> 3-layer MLP -> Mamba-2.8B-Zephyr; pictures before words."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.mamba import MAMBA_2_8B_SLIMPJ, MAMBA_2_8B_ZEPHYR
from omniform.connectors.fused_mlp import FusedMlp
from omniform.connectors.ldp_v2 import FusedLdpV2
from omniform.connectors.mlp import Mlp
from omniform.decoders.text import Text
from omniform.encoders.dinov2 import DINOV2_L_REG_384
from omniform.encoders.several import Several
from omniform.encoders.siglip import SIGLIP_SO400M_384
from omniform.fusion.splice import Splice
from omniform.index import unknown
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System
from omniform.views.fixed import Fixed

ENCODER, SIGLIP = "inputs.image.encoder.", "google/siglip-so400m-patch14-384"
LONGEST = 2048 + 729
"""Words are cut at 2048 tokens (cobra/preprocessing/datasets/datasets.py:176-178); a picture's rows come on top."""

# cobra/models/backbones/llm/prompting/zephyr_prompter.py:14-60, labels cobra/preprocessing/datasets/datasets.py:144-172
ZEPHYR = Prompt(
    first_user="{media}<|user|>\n{text}<|endoftext|>\n",
    user="\n{media}<|user|>\n{text}<|endoftext|>\n",
    header="<|assistant|>\n",
    answer="{text}<|endoftext|>",
    media={"image": "{media}"},
    bos=False,
    stop=("<|endoftext|>",),
)
# cobra/models/backbones/llm/prompting/mamba_prompter.py:5-44
PLAIN_MAMBA = replace(ZEPHYR, first_user="{media}In: {text}\n", user="\n{media}In: {text}\n", header="Out: ")

CONNECTOR = "inputs.image.connector."
RULES = (
    ("projector.projector.", CONNECTOR + "layers."),
    ("llm_backbone.llm.backbone.embedding.", "backbone.lm.backbone.embeddings."),
    ("llm_backbone.llm.", "backbone.lm."),
)
FINETUNE = Stage(
    name="finetune",
    learn=(Learn(part="image.connector", lr=2e-5), Learn(part="backbone", lr=2e-5)),
    data="llava-mix-665k + lvis-instruct4v + lrv-instruct",
    batch=128,
    epochs=2.0,
    weight_decay=0.1,
    max_positions=LONGEST,
    source="cobra/conf/models.py:77-115; nothing is aligned before (cobra/models/vlms/cobra.py, load_from_checkpoint)",
)

SYSTEM = System(
    slug="cobra",
    title="Cobra",
    date="2024/03",
    inputs={
        "image": Continuous(
            # each encoder resizes the picture itself, to the same square with the same filter
            # (cobra/models/backbones/vision/dinosiglip_vit.py:82-105)
            encoder=Several(members=(DINOV2_L_REG_384, SIGLIP_SO400M_384)),
            connector=FusedMlp(),
            views=Fixed(fit="squash"),
            fusion=Splice(),
        )
    },
    backbone=MAMBA_2_8B_ZEPHYR.but(context=LONGEST),
    outputs={"text": Text()},
    prompt=ZEPHYR,
    stages=(FINETUNE,),
    layout=Layout(
        rules=RULES,
        separate={
            ENCODER + "members.0.": "facebook/dinov2-with-registers-large",
            ENCODER + "members.1.": SIGLIP,
        },
    ),
    source=Source(
        paper="arXiv:2403.14520",
        code="h-zhao1997/cobra@4b81082",
        notes="The encoders come from timm there; these are the same weights in transformers' layout.",
    ),
    published_params={"image.connector": 47789568, "backbone": 2768345600},
    survey_notes={
        "llm_backbone": "the survey leaves out the size on Mamba-SlimPJ",
        "modality_encoder": "the survey leaves out the size that sees by SigLIP alone",
        "connection": "the survey leaves out the size with fewer positions",
    },
    variants={
        "one-epoch": {"stages.finetune.epochs": 1.0},
        "base": {"backbone": MAMBA_2_8B_SLIMPJ.but(context=LONGEST), "prompt": PLAIN_MAMBA},
        "ldpnet": {
            "inputs.image.connector": FusedLdpV2(side=14),
            "layout.rules": (("projector.projector.4.peg.0.", CONNECTOR + "peg."), *RULES),
            "published_params": {"image.connector": 41259008, "backbone": 2768345600},
        },
        "siglip": {
            "inputs.image": Continuous(
                encoder=SIGLIP_SO400M_384, connector=Mlp(depth=2), views=Fixed(fit="squash"), fusion=Splice()
            ),
            "layout.separate": {ENCODER: SIGLIP},
            "published_params": {"image.connector": 9507840, "backbone": 2768345600},
        },
    },
)

IDS = {
    "cobra+3b": "", "cobra-one-epoch+3b": "one-epoch", "cobra-base+3b": "base", "cobra-siglip+3b": "siglip",
    "cobra-ldpnet+3b": "ldpnet",
}  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system of a release, whose config.json names a model by its id.

    Raises:
        UnknownName: an id that is not one of Cobra's.
    """
    name = config["model"]["model_id"]
    if name not in IDS:
        raise unknown("model id of cobra", name, IDS)
    return SYSTEM.variant(IDS[name]) if IDS[name] else SYSTEM
