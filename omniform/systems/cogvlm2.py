"""CogVLM2: EVA2-CLIP-E at 1344 pixels -> convolution and gated MLP -> LLaMA-3 with weights of its own for pictures."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import LLAMA_3_8B
from omniform.connectors.conv_glu import ConvGlu
from omniform.decoders.text import Text
from omniform.encoders.eva2_clip import EVA2_CLIP_E_490
from omniform.frozen import FrozenMap
from omniform.fusion.visual_expert import VisualExpert
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems import _cogvlm_release as family
from omniform.systems._llava_release import backbone_of

END = "<|end_of_text|>"


def ended(prompt: Prompt) -> Prompt:
    """The first release's prompt, with this language model's end sign (modeling_cogvlm.py:587-601, 803-838)."""
    last = prompt.last_answer.replace("</s>", END)
    return replace(prompt, answer=prompt.answer.replace("</s>", END), last_answer=last, stop=(END,))


CHAT, VQA, BASE = ended(family.CHAT), ended(family.VQA), ended(family.BASE)
UNCHECKED = Undisclosed("released code trains low-rank adapters only; what arXiv:2408.16500 says was not checked")


def stage(name: str, parts: tuple[str, ...], data: str, prompt: Prompt | None = None) -> Stage:
    learn = tuple(Learn(part=part, lr=UNCHECKED) for part in parts)
    source = "arXiv:2408.16500 section 3"
    return Stage(name=name, learn=learn, data=data, prompt=prompt, source=source, **UNCHECKED.for_all())


SYSTEM = System(
    slug="cogvlm2",
    title="CogVLM2",
    date="2024/08",
    inputs={
        "image": Continuous(
            encoder=EVA2_CLIP_E_490.but(image=1344),
            connector=ConvGlu(mlp_dim=14336),
            views=family.SQUASHED,
            fusion=VisualExpert(qkv_bias=True),
        )
    },
    backbone=LLAMA_3_8B,
    outputs={"text": Text()},
    prompt=CHAT,
    stages=(
        stage("pretrain", ("image.encoder", "image.connector", "image.fusion"), "image-text pairs", BASE),
        stage("tune", ("image.connector", "image.fusion", "backbone"), "instructions, not published"),
    ),
    layout=Layout(
        rules=family.expert_rules(),
        architectures=("CogVLMForCausalLM",),
        recast=(family.SIGNS,),
        joined=(family.QKV,),
    ),
    source=Source(
        paper="arXiv:2408.16500",
        code="THUDM/CogVLM2@6700ae7; Niky-san/cogvlm2_surce@7982d39 (a copy of the released modeling files)",
        notes="Rotary positions have base 500000 whatever the configuration says. Answers are tokenized by themselves, "
        "without a space before them. Only one picture a conversation was trained. Which parts learn in the stages is "
        "recalled from the paper, as is that there are two; low-rank adapters on the experts' queries, keys and values "
        "(finetune_demo/peft_lora.py) are no stage here.",
    ),
    published_params={
        "image.encoder": 4296961536, "image.connector": 196400000, "image.fusion": 6979500000, "total": 19503105280,
    },
    variants={"base": {"prompt": BASE}, "vqa": {"prompt": VQA}, "chinese-chat": {}},
    survey_notes={"modality_encoder": "the survey leaves out that it is the second EVA-CLIP"},
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it."""
    image = SYSTEM.continuous("image")
    encoder = family.encoder_of(image.encoder, config)
    heads = {"num_key_value_heads": config["num_multi_query_heads"], "rope_theta": LLAMA_3_8B.rope_theta}
    prompt = {"base": BASE, "vqa": VQA}.get(config.get("template_version", "chat"), CHAT)
    return replace(
        SYSTEM,
        inputs={"image": replace(image, encoder=encoder, connector=ConvGlu(mlp_dim=config["intermediate_size"]))},
        backbone=backbone_of(SYSTEM.backbone, {**config, **heads}),
        prompt=prompt,
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )
