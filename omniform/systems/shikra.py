"""Shikra: LLaVA that speaks of places in coordinates, written as plain numbers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import VICUNA_V1_7B
from omniform.connectors.linear import Linear
from omniform.decoders.text import Text
from omniform.encoders.clip import CLIP_L_224
from omniform.fusion.splice import Splice
from omniform.prompt import Join, Places
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System
from omniform.systems._conversations import VICUNA_V1
from omniform.systems._llava_release import LINEAR_RULES, NAMED_IN, llava_release
from omniform.views.fixed import Fixed

# mllm/conversation/base_conversation.py:262-274; a picture stays where its turn names it
# (mllm/dataset/process_function/shikra_process_function.py:52-56, mllm/dataset/single_image_interactive.py:44-51)
PROMPT = replace(
    VICUNA_V1,
    user="USER: {content} ",
    join=Join(lead=" "),
    media={"image": "<im_start>{media}<im_end>"},
    # mllm/dataset/process_function/box_process_function.py:170-186, mllm/dataset/utils/transform.py
    places=Places(square=True, decimals=3, opening="[", closing="]", between=",", among=";"),
)
WHITE = (255, 255, 255)


def stage(name: str, data: str, epochs: float, source: str) -> Stage:
    """Everything but the encoder learns, alike in all stages; 8 documents on each of 8 GPUs."""
    return Stage(
        name=name, learn=(Learn(part="image.connector", lr=2e-5), Learn(part="backbone", lr=2e-5)), data=data,
        batch=64, epochs=epochs, source=f"config/{source}; config/_base_/train/shikra_fsdp.py:13-19",
    )  # fmt: skip


SYSTEM = System(
    slug="shikra",
    title="Shikra",
    date="2023/06",
    inputs={
        "image": Continuous(encoder=CLIP_L_224, connector=Linear(), views=Fixed(fit="pad", fill=WHITE), fusion=Splice())
    },
    backbone=VICUNA_V1_7B.but(vocab=32003),
    outputs={"text": Text()},
    prompt=PROMPT,
    special_tokens=("<im_patch>", "<im_start>", "<im_end>"),
    stages=(
        stage("referring", "shikra-rec", 1.0, "shikra_pretrain_concat3_stage0.py:4"),
        stage("reorganised", "shikra-vl", 2.0, "shikra_pretrain_concat8_stage1.py:4"),
        stage("instruct", "shikra-rd-llava-instruct", 3.0, "shikra_pretrain_final19_stage2.py:4"),
    ),
    layout=Layout(
        rules=LINEAR_RULES[1:],  # the encoder is never in the file (mllm/models/shikra/shikra.py)
        separate={"inputs.image.encoder.": "openai/clip-vit-large-patch14"},
        named_in=NAMED_IN,
        architectures=("ShikraLlamaForCausalLM",),
    ),
    source=Source(
        paper="arXiv:2306.15195",
        code="shikras/shikra@ff79a4c",
        notes="Released as differences to LLaMA-7B (apply_delta.py:21-32). Training begins with the projector of LLaVA "
        "7b-v1-1 (config/_base_/model/shikra_7bo.py:4-5).",
    ),
    published_params={"image.encoder": 303179776, "image.connector": 4198400, "backbone": 6738440192},
)


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it; it says nothing of its views."""
    return llava_release(SYSTEM, config, views=SYSTEM.continuous("image").views)
