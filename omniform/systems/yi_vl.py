"""Yi-VL: CLIP ViT-H/14 at 448 px -> MLP with a layer norm after each layer -> Yi; answers in two languages."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import YI_6B, YI_34B
from omniform.connectors.normed_mlp import NormedMlp
from omniform.decoders.text import Text
from omniform.encoders.clip import CLIP_H_448
from omniform.fusion.splice import Splice
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems._conversations import IN_FRONT, V0
from omniform.systems._llava_release import MLP_RULES, NAMED_IN, llava_release, variant_of
from omniform.views.fixed import Fixed

# VL/llava/conversation.py:42-50, 184-195; the training code is not public, the learned part is that of the LLaVA v0
# form this is
MM_DEFAULT = replace(
    V0,
    system="This is a chat between an inquisitive human and an AI assistant. Assume the role of the AI assistant. Read "
    "all the images carefully, and respond to the human's questions with informative, helpful, detailed and polite "
    "answers. 这是一个好奇的人类和一个人工智能助手之间的对话。假设你扮演这个AI助手的角色。仔细阅读所有的图像，"  # noqa: RUF001
    "并对人类的问题做出信息丰富、有帮助、详细的和礼貌的回答。",
    user="### Human: {media}{text}\n",
    media=IN_FRONT,
    bos=False,
)

UNPUBLISHED = Undisclosed("the training code is not public")
SEEN = (Learn(part="image.encoder", lr=1e-4), Learn(part="image.connector", lr=1e-4))
CARD = "https://huggingface.co/01-ai/Yi-VL-6B model card, Training"


def stage(name: str, learn: tuple[Learn, ...], data: str, batch: int, epochs: float, clip: float, source: str) -> Stage:
    """What the model card tells of each stage; the rest was never published."""
    return Stage(
        name=name, learn=learn, data=data, batch=batch, epochs=epochs, clip_norm=clip, schedule=UNPUBLISHED,
        warmup=UNPUBLISHED, weight_decay=UNPUBLISHED, max_positions=UNPUBLISHED, source=source,
    )  # fmt: skip


def tower(size: str) -> dict[str, str]:
    """Where a release holds its encoder: a folder of its own inside."""
    return {"inputs.image.encoder.": f"./vit/clip-vit-H-14-laion2B-s32B-b79K-yi-vl-{size}-448"}


SYSTEM = System(
    slug="yi-vl",
    title="Yi-VL",
    date="2024/03",
    inputs={"image": Continuous(encoder=CLIP_H_448, connector=NormedMlp(), views=Fixed(fit="pad"), fusion=Splice())},
    backbone=YI_6B,
    outputs={"text": Text()},
    prompt=MM_DEFAULT,
    stages=(
        stage("align", SEEN, "laion-400m-100m", 4096, 1.0, 0.5, f"{CARD}, stage 1 (at 224 px)"),
        stage("align-448", SEEN, "yi-vl-25m", 4096, 1.0, 0.5, f"{CARD}, stage 2"),
        stage(
            "instruct",
            tuple(Learn(part=part, lr=2e-5) for part in ("image.encoder", "image.connector", "backbone")),
            "yi-vl-1m", 256, 2.0, 1.0, f"{CARD}, stage 3",
        ),
    ),
    layout=Layout(rules=MLP_RULES, separate=tower("6B"), named_in=NAMED_IN, architectures=("LlavaLlamaForCausalLM",)),
    source=Source(paper="arXiv:2403.04652", code="01-ai/Yi@f73194c VL/"),
    published_params={"image.encoder": 631749120, "image.connector": 22044672, "backbone": 6061035520},
    variants={
        "34b": {
            "backbone": YI_34B, "layout.separate": tower("34B"), "published_params": {"total": 35081264640},
        }
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it."""
    return llava_release(variant_of(SYSTEM, config), config)
