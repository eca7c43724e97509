"""LLaVA-NeXT (LLaVA-1.6): LLaVA-1.5 that sees a picture as an overview and up to four tiles of 336 px."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import HERMES_2_YI_34B, LLAMA_3_8B, VICUNA_7B, VICUNA_13B
from omniform.backbones.mistral import MISTRAL_7B_V02
from omniform.backbones.qwen2 import QWEN1_5_7B
from omniform.connectors.mlp import Mlp
from omniform.decoders.text import Text
from omniform.encoders.clip import CLIP_L_336
from omniform.fusion.splice import Splice
from omniform.prompt import Join, Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems._conversations import CHATML_DIRECT, HELPFUL, LLAMA_2, PLAIN, QWEN_1_5, VICUNA_V1
from omniform.systems._llava_release import MLP_RULES, NAMED_IN, llava_release, variant_of
from omniform.views.any_res import AnyRes
from omniform.views.fixed import Fixed

# haotian-liu/LLaVA@c121f04 llava/conversation.py:350-359: no system text, no begin token between turns
MISTRAL_INSTRUCT = replace(LLAMA_2, system="", user="[INST] {media}{text} [/INST]")
# LLaVA-VL/LLaVA-NeXT@df17966 llava/conversation.py:97-109, 386-397, labels llava/train/train.py:639-722
LLAMA_3 = Prompt(
    system=HELPFUL,
    system_turn="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
    user="<|start_header_id|>user<|end_header_id|>\n\n{content}<|eot_id|>",
    join=Join(lead="\n", lone_first=True),
    header="<|start_header_id|>assistant<|end_header_id|>\n\n",
    learn_header=True,
    answer="{text}<|eot_id|>",
    media={"image": "{media}"},
    always_learned=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "\n\n"),
    bos=False,
    stop=("<|eot_id|>",),
)

PRETRAIN = Stage(
    name="pretrain",
    learn=(Learn(part="image.connector", lr=1e-3),),
    data="llava-pretrain-558k",
    batch=Undisclosed("16 a GPU; how many GPUs is not in the script"),
    max_positions=8192,
    prompt=PLAIN,
    views={"image": Fixed(fit="crop")},
    source="LLaVA-VL/LLaVA-NeXT@df17966 scripts/train/pretrain_clip.sh:14-47; views llava/train/train.py:82, 125",
)
FINETUNE = Stage(
    name="finetune",
    learn=(
        Learn(part="image.encoder", lr=2e-6),
        Learn(part="image.connector", lr=1e-5),
        Learn(part="backbone", lr=1e-5),
    ),
    data="llava-next-760k",
    batch=Undisclosed("4 a GPU; how many GPUs is not in the script"),
    max_positions=32768,
    source="LLaVA-VL/LLaVA-NeXT@df17966 scripts/train/direct_finetune_clip.sh:14-55",
)
QWEN1_5_72B = QWEN1_5_7B.but(dim=8192, layers=80, heads=64, kv_heads=64, mlp_dim=24576, vocab=152064)
QWEN = {"prompt": QWEN_1_5, "layout.architectures": ("LlavaQwenForCausalLM",)}

SYSTEM = System(
    slug="llava-next",
    title="LLaVA-NeXT",
    date="2024/01",
    inputs={
        "image": Continuous(
            encoder=CLIP_L_336,
            connector=Mlp(depth=2),
            views=AnyRes(grids=((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))),
            fusion=Splice(),
        )
    },
    backbone=VICUNA_7B,
    outputs={"text": Text()},
    prompt=VICUNA_V1,
    stages=(PRETRAIN, FINETUNE),
    layout=Layout(
        rules=MLP_RULES,
        named_in=NAMED_IN,
        architectures=("LlavaLlamaForCausalLM",),
        transformers="LlavaNextForConditionalGeneration",
    ),
    source=Source(
        paper="https://llava-vl.github.io/blog/2024-01-30-llava-next/",
        code="haotian-liu/LLaVA@c121f04, LLaVA-VL/LLaVA-NeXT@df17966",
        notes="The training of 1.6 was never published whole; the stages are the scripts that "
        "LLaVA-VL/LLaVA-NeXT@df17966 scripts/train/README.md:19 calls the first image version.",
    ),
    published_params={"image.encoder": 303507456, "image.connector": 20983808, "backbone": 6738415616},
    survey_notes={"llm_backbone": "Vicuna is version 1.5; the releases on LLaMA-3 and Qwen1.5 came after the survey's"},
    variants={
        "13b": {"backbone": VICUNA_13B, "published_params": {"total": 13350844416}},
        "mistral-7b": {
            "backbone": MISTRAL_7B_V02, "prompt": MISTRAL_INSTRUCT, "published_params": {"total": 7566223360},
            "layout.architectures": ("LlavaMistralForCausalLM",),
        },
        "34b": {
            "backbone": HERMES_2_YI_34B, "prompt": CHATML_DIRECT, "published_params": {"total": 34751166464},
        },
        "llama3-8b": {"backbone": LLAMA_3_8B, "prompt": LLAMA_3, "published_params": {"total": 8354752512}},
        "72b": {**QWEN, "backbone": QWEN1_5_72B, "published_params": {"total": 72666949632}},
        "110b": {
            **QWEN, "backbone": QWEN1_5_72B.but(kv_heads=8, mlp_dim=49152), "published_params": {"total": 111588943872},
        },
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it."""
    return llava_release(variant_of(SYSTEM, config), config)
