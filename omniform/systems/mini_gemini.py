"""Mini-Gemini (MGM): CLIP ViT-L/14 mines a ConvNeXt's finer map -> 2-layer MLP -> Vicuna-1.5 and others; text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.gemma import GEMMA_2B
from omniform.backbones.llama import HERMES_2_YI_34B, LLAMA_3_8B, VICUNA_7B, VICUNA_13B
from omniform.backbones.mixtral import MIXTRAL_8X7B
from omniform.connectors.mlp import Mlp
from omniform.connectors.patch_mining import PatchMining
from omniform.decoders.text import Text
from omniform.encoders.clip import CLIP_L_336
from omniform.encoders.convnext_clip import CONVNEXT_CLIP_L_768
from omniform.encoders.cropped import Cropped
from omniform.encoders.several import Several
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.geometry import SpecError
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System
from omniform.systems._conversations import CHATML_DIRECT, HELPFUL, IN_FRONT, LLAMA_2, PLAIN, VICUNA_V1
from omniform.systems._llava_release import CONNECTOR, backbone_of, connector_of, encoder_of, variant_of
from omniform.views.fixed import Fixed

# mgm/conversation.py:104-112, 431-440, labels mgm/train/train.py:605-693
GEMMA = Prompt(
    user="<start_of_turn>user\n{media}{text}<end_of_turn>\n",
    header="<start_of_turn>model\n",
    answer="{text}<end_of_turn>\n<eos>",
    media=IN_FRONT,
    stop=("<end_of_turn>",),
)
# mgm/conversation.py:94-103, 298-310, labels mgm/train/train.py:514-602: the answers' header says "system"
LLAMA_3 = Prompt(
    system=HELPFUL,
    system_turn="<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
    user="<|start_header_id|>user<|end_header_id|>\n\n{media}{text}<|eot_id|>",
    header="<|start_header_id|>system<|end_header_id|>\n\n",
    answer="{text}<|eot_id|>",
    media=IN_FRONT,
    stop=("<|eot_id|>",),
)
# mgm/conversation.py:420-429
MISTRAL_INSTRUCT = replace(LLAMA_2, system="")

PRETRAIN = Stage(
    name="pretrain",
    learn=(Learn(part="image.connector", lr=1e-3),),
    data="mgm-pretrain-1.2m",
    batch=256,
    prompt=PLAIN,
    views={"image": Fixed(fit="crop")},
    source="scripts/llama/train/stage_1_2_full_v7b_336_hr_768.sh:8-42; views mgm/train/train.py:85, 930-953",
)
FINETUNE = Stage(
    name="finetune",
    learn=(Learn(part="image.connector", lr=2e-5), Learn(part="backbone", lr=2e-5)),
    data="mgm-instruct-1.5m",
    batch=128,
    source="scripts/llama/train/stage_1_2_full_v7b_336_hr_768.sh:45-82",
)
SLOW = replace(
    FINETUNE,
    learn=(Learn(part="image.connector", lr=1e-5), Learn(part="backbone", lr=1e-5)),
    source="scripts/mixtral/train/stage_1_2_full_mixtral_8x7b_336_hr_768.sh, scripts/yi/train/",
)
ENCODERS = Several(members=(CLIP_L_336, CONVNEXT_CLIP_L_768))
HD_ENCODERS = Several(members=(Cropped(inner=CLIP_L_336), CONVNEXT_CLIP_L_768.but(image=1536)))


def sized(backbone: Any, prompt: Prompt, tuned: Stage = FINETUNE, aligned: Prompt = PLAIN) -> dict[str, Any]:
    """A release on another language model."""
    stages = (replace(PRETRAIN, prompt=aligned), tuned)
    return {"backbone": backbone, "prompt": prompt, "stages": stages}


def hd(size: Mapping[str, Any]) -> dict[str, Any]:
    """The release of a size that sees pictures twice as large, tuned from what was pretrained at the base size."""
    aligned, tuned = size.get("stages", (PRETRAIN, FINETUNE))
    finer = replace(tuned, max_positions=4096, source="scripts/*/train/stage_2_full_*_672_hr_1536.sh")
    return {**size, "inputs.image.encoder": HD_ENCODERS, "stages": (aligned, finer)}


SIZES: Mapping[str, Mapping[str, Any]] = FrozenMap({
    "2b": {**sized(GEMMA_2B, GEMMA), "layout.architectures": ("MGMGemmaForCausalLM",)},
    "13b": {"backbone": VICUNA_13B},
    "8b": sized(LLAMA_3_8B, LLAMA_3, aligned=LLAMA_3),
    "8x7b": {**sized(MIXTRAL_8X7B, MISTRAL_INSTRUCT, SLOW), "layout.architectures": ("MGMMixtralForCausalLM",)},
    "34b": sized(HERMES_2_YI_34B, CHATML_DIRECT, SLOW),
})  # fmt: skip

SYSTEM = System(
    slug="mini-gemini",
    title="Mini-Gemini",
    date="2024/03",
    inputs={
        "image": Continuous(encoder=ENCODERS, connector=PatchMining(), views=Fixed(fit="pad"), fusion=Splice())
    },
    backbone=VICUNA_7B,
    outputs={"text": Text()},
    prompt=VICUNA_V1,
    stages=(PRETRAIN, FINETUNE),
    layout=Layout(
        rules=(
            ("model.vision_tower.vision_tower.", "inputs.image.encoder.members.0."),
            ("model.vision_tower_aux.vision_stem.", "inputs.image.encoder.members.1.stem."),
            ("model.vision_tower_aux.vision_stages.", "inputs.image.encoder.members.1.stages."),
            ("model.vlm_uni_query_projector.", CONNECTOR + "query."),
            ("model.vlm_uni_aux_projector.", CONNECTOR + "key."),
            ("model.vlm_uni_val_projector.", CONNECTOR + "value."),
            ("model.mm_projector.", CONNECTOR + "layers."),
            ("", "backbone.lm."),
        ),
        separate={
            "inputs.image.encoder.members.0.": "openai/clip-vit-large-patch14-336",
            "inputs.image.encoder.members.1.": "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup",
        },
        architectures=("MGMLlamaForCausalLM",),
    ),
    source=Source(
        paper="arXiv:2403.18814",
        code="dvlab-research/MGM@769820c",
        notes="The ConvNeXt is frozen but in training mode, where its blocks are dropped at random (up to 0.1), unless "
        "a script says otherwise (stage_1_2_full_v7b_336_hr_768_nodp.sh); it is never dropped here. Pictures are drawn "
        "by another model, SDXL, from words that the language model writes between <h> and </h>.",
    ),
    published_params={"image.encoder": 499734720, "image.connector": 27943168, "backbone": 6738415616},
    survey_notes={"llm_backbone": "Vicuna is version 1.5; the releases on LLaMA-3 came after the survey's"},
    variants={**SIZES, "7b-hd": hd({}), **{f"{n}-hd": hd(s) for n, s in SIZES.items() if n != "2b"}},
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it."""
    system = variant_of(SYSTEM, config)
    side = config.get("image_grid") or 1
    ratio = config.get("image_aspect_ratio") or "square"
    if ratio not in ("pad", "square"):
        raise SpecError(f"image_aspect_ratio {ratio!r} is none of this system's, pad and square")
    image = replace(
        system.continuous("image"),
        encoder=_encoders(config, side),
        connector=_connector(config),
        views=Fixed(fit="pad" if ratio == "pad" else "crop"),
    )
    return replace(
        system,
        inputs={"image": image},
        backbone=backbone_of(system.backbone, config),
        stages=hd({"stages": system.stages})["stages"] if side > 1 else system.stages,
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )


def _encoders(config: Mapping[str, Any], side: int) -> Several:
    clip = encoder_of(CLIP_L_336, config)
    overview = bool(config.get("image_global"))
    coarse = Cropped(inner=clip, side=side, overview=overview) if side > 1 or overview else clip
    return Several(members=(coarse, CONVNEXT_CLIP_L_768.but(image=config.get("image_size_aux", 768))))


def _connector(config: Mapping[str, Any]) -> PatchMining:
    projector = connector_of(config)
    if not isinstance(projector, Mlp):
        raise SpecError(f"mm_projector_type {config.get('mm_projector_type')!r} is no MLP, as all releases have")
    return PatchMining(depth=projector.depth)
