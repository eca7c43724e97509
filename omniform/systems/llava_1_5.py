"""LLaVA-1.5: CLIP ViT-L/14 at 336 px -> 2-layer MLP -> Vicuna-1.5; answers in text."""

from collections.abc import Mapping
from typing import Any

from omniform.backbones.llama import VICUNA_7B, VICUNA_13B
from omniform.connectors.mlp import Mlp
from omniform.decoders.text import Text
from omniform.encoders.clip import CLIP_L_336
from omniform.fusion.splice import Splice
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System
from omniform.systems._llava_release import NAMED_IN, llava_release
from omniform.views.fixed import Fixed

VICUNA_V1 = Prompt(
    system="A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    system_turn="{system} ",
    user="USER: {media}{text} ",
    header="ASSISTANT:",
    answer=" {text}</s>",
    media={"image": "{media}\n"},
    stop=("</s>",),
)
PLAIN = Prompt(user="{media}", header="", answer="{text}\n", media={"image": "{media}"}, stop=("\n",))

SYSTEM = System(
    slug="llava-1.5",
    title="LLaVA-1.5",
    date="2023/10",
    inputs={"image": Continuous(encoder=CLIP_L_336, connector=Mlp(depth=2), views=Fixed(fit="pad"), fusion=Splice())},
    backbone=VICUNA_7B,
    outputs={"text": Text()},
    prompt=VICUNA_V1,
    stages=(
        Stage(
            name="pretrain",
            learn=(Learn(part="image.connector", lr=1e-3),),
            data="llava-pretrain-558k",
            batch=256,
            prompt=PLAIN,
            views={"image": Fixed(fit="crop")},
            source="scripts/v1_5/pretrain.sh",
        ),
        Stage(
            name="finetune",
            learn=(Learn(part="image.connector", lr=2e-5), Learn(part="backbone", lr=2e-5)),
            data="llava-mix-665k",
            batch=128,
            source="scripts/v1_5/finetune.sh",
        ),
    ),
    layout=Layout(
        rules=(
            ("model.vision_tower.vision_tower.", "inputs.image.encoder."),
            ("model.mm_projector.", "inputs.image.connector.layers."),
            ("", "backbone.lm."),
        ),
        separate={"inputs.image.encoder.": "openai/clip-vit-large-patch14-336"},
        named_in=NAMED_IN,
        architectures=("LlavaLlamaForCausalLM",),
    ),
    source=Source(paper="arXiv:2310.03744", code="haotian-liu/LLaVA@c121f04"),
    published_params={"image.encoder": 303507456, "image.connector": 20979712, "backbone": 6738415616},
    variants={"13b": {"backbone": VICUNA_13B}},
)


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it."""
    return llava_release(SYSTEM, config)
