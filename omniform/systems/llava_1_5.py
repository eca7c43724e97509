"""LLaVA-1.5: CLIP ViT-L/14 at 336 px -> 2-layer MLP -> Vicuna-1.5; answers in text."""

from collections.abc import Mapping
from typing import Any

from omniform.backbones.llama import VICUNA_7B, VICUNA_13B
from omniform.connectors.mlp import Mlp
from omniform.decoders.text import Text
from omniform.encoders.clip import CLIP_L_336
from omniform.fusion.splice import Splice
from omniform.spec import Continuous, Layout, Learn, Lora, Source, Stage, System
from omniform.systems._conversations import PLAIN, VICUNA_V1
from omniform.systems._llava_release import MLP_RULES, NAMED_IN, llava_release, variant_of
from omniform.views.fixed import Fixed

PRETRAIN = Stage(
    name="pretrain",
    learn=(Learn(part="image.connector", lr=1e-3),),
    data="llava-pretrain-558k",
    batch=256,
    prompt=PLAIN,
    views={"image": Fixed(fit="crop")},
    source="scripts/v1_5/pretrain.sh:6-31; README.md:299-301; views llava/train/train.py:76",
)
FINETUNE = Stage(
    name="finetune",
    learn=(Learn(part="image.connector", lr=2e-5), Learn(part="backbone", lr=2e-5)),
    data="llava-mix-665k",
    batch=128,
    source="scripts/v1_5/finetune.sh:6-33; README.md:305-307",
)
FINETUNE_LORA = Stage(
    name="finetune",
    learn=(Learn(part="image.connector", lr=2e-5),),
    lora=Lora(rank=128, alpha=256, dropout=0.05, lr=2e-4),
    data="llava-mix-665k",
    batch=128,
    source="scripts/v1_5/finetune_lora.sh:4-34; dropout and linear layers llava/train/train.py:106-110, 169-182",
)

SYSTEM = System(
    slug="llava-1.5",
    title="LLaVA-1.5",
    date="2023/10",
    inputs={"image": Continuous(encoder=CLIP_L_336, connector=Mlp(depth=2), views=Fixed(fit="pad"), fusion=Splice())},
    backbone=VICUNA_7B,
    outputs={"text": Text()},
    prompt=VICUNA_V1,
    stages=(PRETRAIN, FINETUNE),
    layout=Layout(
        rules=MLP_RULES,
        separate={"inputs.image.encoder.": "openai/clip-vit-large-patch14-336"},
        named_in=NAMED_IN,
        architectures=("LlavaLlamaForCausalLM",),
        transformers="LlavaForConditionalGeneration",
    ),
    source=Source(paper="arXiv:2310.03744", code="haotian-liu/LLaVA@c121f04"),
    published_params={"image.encoder": 303507456, "image.connector": 20979712, "backbone": 6738415616},
    variants={
        "13b": {"backbone": VICUNA_13B, "published_params": {"total": 13350839296}},
        "7b-lora": {"stages.finetune": FINETUNE_LORA},
        "13b-lora": {
            "backbone": VICUNA_13B, "stages.finetune": FINETUNE_LORA, "published_params": {"total": 13350839296},
        },
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it."""
    return llava_release(variant_of(SYSTEM, config), config)
