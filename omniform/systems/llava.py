"""LLaVA: CLIP ViT-L/14 at 224 px -> one linear layer -> Vicuna; answers in text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import LLAMA_2_7B, LLAMA_2_13B, VICUNA_V1_7B, VICUNA_V1_13B
from omniform.backbones.mpt import MPT_7B
from omniform.connectors.linear import Linear
from omniform.decoders.text import Text
from omniform.encoders.clip import CLIP_L_224, CLIP_L_336
from omniform.fusion.splice import Splice
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Lora, Source, Stage, System
from omniform.systems._conversations import CHATML_DIRECT, HUMAN, IN_FRONT, LLAMA_2, PLAIN, V0, VICUNA_V1
from omniform.systems._llava_release import LINEAR_RULES, NAMED_IN, llava_release, variant_of
from omniform.views.fixed import Fixed

V1_MARKED = replace(VICUNA_V1, media={"image": "<im_start>{media}<im_end>\n"})
V0_MARKED = replace(V0, media={"image": "<im_start>{media}<im_end>"})
# the v0 releases are asked without blank and new line at the signs (llava/conversation.py:45-53, 301-310)
V0_ASKED = Prompt(
    system=HUMAN,
    system_turn="{system}###",
    user="Human: {media}{text}###",
    header="Assistant:",
    answer=" {text}###",
    media=IN_FRONT,
    stop=("###",),
)
# llava/conversation.py:280-289; labels as at tag v1.0.1 llava/train/train.py:521-536 (later off by one)
MPT = replace(
    CHATML_DIRECT,
    system="A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest "
    "answers.",
    bos=False,
)

TUNED = (Learn(part="image.connector", lr=2e-5), Learn(part="backbone", lr=2e-5))
ALIGN = Stage(
    name="align",
    learn=(Learn(part="image.connector", lr=2e-3),),
    data="llava-cc3m-595k",
    batch=128,
    source="haotian-liu/LLaVA@ddcd5ac README.md:304-306, 317-352 (also trains the two new tokens' embeddings)",
)
INSTRUCT = Stage(
    name="instruct",
    learn=TUNED,
    data="llava-instruct-158k",
    batch=32,
    epochs=3.0,
    source="haotian-liu/LLaVA@ddcd5ac README.md:310-312, 492-523",
)
LIGHTNING = (
    Stage(
        name="align",
        learn=(Learn(part="image.connector", lr=2e-3),),
        data="llava-pretrain-558k",
        batch=128,
        prompt=PLAIN,
        source="scripts/pretrain.sh:15-46",
    ),
    Stage(name="instruct", learn=TUNED, data="llava-instruct-80k", batch=128, source="scripts/finetune.sh:17-48"),
)
LORA = replace(
    LIGHTNING[1],
    learn=(),
    lora=Lora(rank=64, alpha=16, dropout=0.05, lr=2e-5),
    source="scripts/finetune_lora.sh:39; llava/train/train.py:106-109; that the release used them is not published",
)
MPT_RULES = tuple((a.replace("model.", "transformer.", 1), b) for a, b in LINEAR_RULES)
UNMARKED = {"prompt": VICUNA_V1, "special_tokens": (), "stages": LIGHTNING}

SYSTEM = System(
    slug="llava",
    title="LLaVA",
    date="2023/04",
    inputs={"image": Continuous(encoder=CLIP_L_224, connector=Linear(), views=Fixed(fit="crop"), fusion=Splice())},
    backbone=VICUNA_V1_7B.but(vocab=32003),
    outputs={"text": Text()},
    prompt=V1_MARKED,
    special_tokens=("<im_patch>", "<im_start>", "<im_end>"),
    stages=(ALIGN, INSTRUCT),
    layout=Layout(
        rules=LINEAR_RULES,
        separate={"inputs.image.encoder.": "openai/clip-vit-large-patch14"},
        named_in=NAMED_IN,
        architectures=("LlavaLlamaForCausalLM",),
    ),
    source=Source(
        paper="arXiv:2304.08485",
        code="haotian-liu/LLaVA@c121f04",
        notes="v0 and v1-1 releases are differences to LLaMA, to be added tensor by tensor: base rows of larger "
        "embeddings are added, new rows and the projector stand as they are (ddcd5ac llava/model/apply_delta.py:22-33)",
    ),
    published_params={"image.encoder": 303179776, "image.connector": 4198400, "backbone": 6738440192},
    survey_notes={"llm_backbone": "the previews on LLaMA-2 chat and MPT are not in the survey"},
    variants={
        "13b": {"backbone": VICUNA_V1_13B.but(vocab=32003), "published_params": {"total": 13324322816}},
        "7b-v0": {
            "backbone": VICUNA_V1_7B.but(vocab=32004), "prompt": V0_MARKED,
            "special_tokens": ("[PAD]", "<im_patch>", "<im_start>", "<im_end>"),
        },
        "13b-v0": {
            "backbone": VICUNA_V1_13B.but(vocab=32004), "prompt": V0_MARKED,
            "special_tokens": ("[PAD]", "<im_patch>", "<im_start>", "<im_end>"),
            "published_params": {"total": 13324322816},
        },
        "7b-lightning": {"stages": LIGHTNING},
        "13b-336": {
            **UNMARKED, "inputs.image.encoder": CLIP_L_336, "backbone": VICUNA_V1_13B,
            "stages": (LIGHTNING[0], LORA), "published_params": {"total": 13324619776},
            "layout.separate": {"inputs.image.encoder.": "openai/clip-vit-large-patch14-336"},
        },
        "7b-llama-2": {**UNMARKED, "backbone": LLAMA_2_7B, "prompt": LLAMA_2, "stages": (LIGHTNING[0], LORA)},
        "13b-llama-2": {
            **UNMARKED, "backbone": LLAMA_2_13B, "prompt": LLAMA_2, "published_params": {"total": 13324292096},
        },
        "7b-mpt": {
            **UNMARKED, "backbone": MPT_7B, "prompt": MPT, "published_params": {"total": 6956664832},
            "layout.rules": MPT_RULES, "layout.architectures": ("LlavaMptForCausalLM", "LlavaMPTForCausalLM"),
        },
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it."""
    return llava_release(variant_of(SYSTEM, config), config)
