"""ShareGPT4V: LLaVA-1.5 pretrained on better captions, with the later half of its encoder tuned."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import VICUNA_13B
from omniform.spec import Learn, Source, Stage, System
from omniform.systems import llava_1_5
from omniform.systems._conversations import PLAIN
from omniform.systems._llava_release import llava_release, variant_of
from omniform.views.fixed import Fixed

TUNED = (Learn(part="image.connector", lr=2e-5), Learn(part="backbone", lr=2e-5))

SYSTEM = replace(
    llava_1_5.SYSTEM,
    slug="sharegpt4v",
    title="ShareGPT4V",
    date="2023/11",
    stages=(
        Stage(
            name="pretrain",
            # layer 23 is marked to learn, too, but features are taken before it
            learn=(Learn(part="image.encoder", lr=2e-5, first_layer=12), *TUNED),
            data="sharegpt4v-pretrain-1.2m",
            batch=256,
            prompt=PLAIN,
            views={"image": Fixed(fit="crop")},
            source="scripts/sharegpt4v/slurm_pretrain_7b.sh:7-62; share4v/train/train.py:73, 808-827",
        ),
        Stage(
            name="finetune",
            learn=TUNED,
            data="sharegpt4v-mix-665k",
            batch=128,
            source="scripts/sharegpt4v/slurm_finetune_7b.sh:7-58",
        ),
    ),
    layout=replace(
        llava_1_5.SYSTEM.layout,
        separate={"inputs.image.encoder.": "Lin-Chen/ShareGPT4V-7B_Pretrained_vit-large336-l12"},
        architectures=("Share4VLlamaForCausalLM",),
    ),
    source=Source(
        paper="arXiv:2311.12793",
        code="ShareGPT4Omni/ShareGPT4V@b6f70e9",
        notes="The projector of LLaVA-1.5 is where pretraining starts (slurm_pretrain_7b.sh:15, 39). The demo asks the "
        'releases in the "###" form of conversation.py:301-310, which they were not trained in.',
    ),
    variants={
        "13b": {
            "backbone": VICUNA_13B,
            "layout.separate": {"inputs.image.encoder.": "Lin-Chen/ShareGPT4V-13B_Pretrained_vit-large336-l12"},
            "published_params": {"total": 13350839296},
        }
    },
)


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it."""
    return llava_release(variant_of(SYSTEM, config), config)
