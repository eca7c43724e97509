"""TinyLLaVA: SigLIP-SO400M at 384 px -> 2-layer MLP -> Phi-2, Gemma, StableLM-2, TinyLLaMA or small Qwen."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.gemma import GEMMA_2B
from omniform.backbones.llama import TINYLLAMA_1_1B
from omniform.backbones.phi import PHI_2
from omniform.backbones.qwen2 import QWEN2_0_5B
from omniform.backbones.stablelm import STABLELM_2_1_6B
from omniform.connectors.mlp import Mlp
from omniform.connectors.mof_mlp import MofMlp
from omniform.decoders.text import Text
from omniform.encoders.clip import CLIP_L_224, CLIP_MEAN, CLIP_STD
from omniform.encoders.dinov2 import DINOV2_L_518
from omniform.encoders.several import Several
from omniform.encoders.siglip import SIGLIP_SO400M_384
from omniform.fusion.splice import Splice
from omniform.geometry import SpecError
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Lora, Source, Stage, System
from omniform.systems._conversations import PLAIN, VICUNA_V1, ending
from omniform.systems._llava_release import (
    CONNECTOR,
    backbone_of,
    connector_of,
    encoder_of,
    rules_for,
    variant_of,
    views_of,
)
from omniform.views.fixed import Fixed

# tinyllava/data/template/*_template.py; labels base.py:93-134
PHI, GEMMA = ending("<|endoftext|>", bos=False), ending("<eos>", bos=True)
QWEN2_INSTRUCT = ending("<|im_end|>", bos=False)

TUNED = (Learn(part="image.connector", lr=2e-5), Learn(part="backbone", lr=2e-5))


def common(prompt: Prompt) -> tuple[Stage, ...]:
    """The common recipe, scripts/train/train_phi.sh and its like."""
    return (
        Stage(
            name="pretrain", learn=(Learn(part="image.connector", lr=1e-3),), data="llava-pretrain-558k", batch=256,
            prompt=replace(PLAIN, bos=prompt.bos), source="scripts/train/pretrain.sh:37-56, on 4 GPUs",
        ),
        Stage(
            name="finetune", learn=TUNED, data="llava-mix-665k", batch=128,
            source="scripts/train/finetune.sh:37-58, on 4 GPUs",
        ),
    )  # fmt: skip


SHARE = (
    common(PHI)[0],
    Stage(
        name="share-pretrain",
        learn=TUNED,
        data="sharegpt4v-pretrain-1.2m",
        batch=256,
        max_positions=3072,
        prompt=replace(PLAIN, bos=False),
        source="scripts/train/share/pretrain_share.sh:37-55; train_phi_share.sh:15-21",
    ),
    Stage(
        name="share-finetune",
        learn=TUNED,
        data="sharegpt4v-mix-665k",
        batch=128,
        max_positions=3072,
        source="scripts/train/share/finetune_share.sh:37-56; train_phi_share.sh:15-21",
    ),
)
LORA = (
    common(PHI)[0],
    Stage(
        name="finetune",
        learn=(Learn(part="image.connector", lr=2e-4),),
        lora=Lora(rank=128, alpha=256, dropout=0.05, lr=2e-4),
        data="llava-mix-665k",
        batch=128,
        source="scripts/train/lora/finetune_lora.sh:37-58; tinyllava/utils/train_utils.py:82-95",
    ),
)
MOF = {
    "inputs.image": Continuous(
        # both towers see pixels normalised for CLIP (tinyllava/model/vision_tower/mof.py)
        encoder=Several(
            members=(CLIP_L_224, DINOV2_L_518.but(image=224, trained_image=518, mean=CLIP_MEAN, std=CLIP_STD))
        ),
        connector=MofMlp(depth=2),
        views=Fixed(fit="crop"),
        fusion=Splice(),
    ),
    "layout.rules": (
        ("language_model.", "backbone.lm."),
        ("vision_tower._vision_tower.clip.vision_model.", "inputs.image.encoder.members.0.model."),
        ("vision_tower._vision_tower.dinov2.", "inputs.image.encoder.members.1."),
        ("connector._connector.clip.", CONNECTOR + "branches.0.layers."),
        ("connector._connector.dinov2.", CONNECTOR + "branches.1.layers."),
    ),
}


def on(backbone: Any, prompt: Prompt, **total: int) -> dict[str, Any]:
    """Another language model by the common recipe."""
    return {"backbone": backbone, "prompt": prompt, "stages": common(prompt), "published_params": total}


SYSTEM = System(
    slug="tinyllava",
    title="TinyLLaVA",
    date="2024/02",
    inputs={
        "image": Continuous(
            # the first of 729 patches goes where other towers have a class token
            # (tinyllava/model/vision_tower/base.py:47-53)
            encoder=SIGLIP_SO400M_384.but(drop_first=True),
            connector=Mlp(depth=2),
            views=Fixed(fit="squash"),
            fusion=Splice(),
        )
    },
    backbone=PHI_2,
    outputs={"text": Text()},
    prompt=PHI,
    stages=SHARE,
    layout=Layout(
        rules=(
            ("language_model.", "backbone.lm."),
            ("vision_tower._vision_tower.", "inputs.image.encoder."),
            ("connector._connector.", CONNECTOR + "layers."),
        ),
        architectures=("TinyLlavaForConditionalGeneration",),
        transformers="LlavaForConditionalGeneration",
    ),
    source=Source(
        paper="arXiv:2402.14289",
        code="TinyLLaVA/TinyLLaVA_Factory@53f12c7",
        notes="The sizes on OpenELM are not here: transformers has no such model.",
    ),
    published_params={"image.encoder": 428225600, "image.connector": 9507840, "backbone": 2779683840},
    survey_notes={
        "llm_backbone": "Gemma and Qwen-2 came after the survey's releases",
        "modality_encoder": "the SigLIP that was released is SO400M, and CLIP stands beside DINOv2",
    },
    variants={
        "phi-2-base": {"stages": common(PHI)},
        "phi-2-lora": {"stages": LORA},
        "gemma-2b": on(GEMMA_2B, GEMMA, total=2940955712),
        "stablelm-2": on(STABLELM_2_1_6B, PHI),
        "tinyllama": on(TINYLLAMA_1_1B, VICUNA_V1),
        "tinyllama-mof": {**on(TINYLLAMA_1_1B, VICUNA_V1), **MOF},
        "qwen2-0.5b": on(QWEN2_0_5B, PHI, total=924095168),
        "qwen2-0.5b-instruct": on(QWEN2_0_5B, QWEN2_INSTRUCT, total=924095168),
        "qwen2.5-3b": on(
            QWEN2_0_5B.but(dim=2048, layers=36, heads=16, kv_heads=2, mlp_dim=11008), PHI, total=3520721984
        ),
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it: language model and tower under keys of their own.

    Raises:
        SpecError: a connector that is not here, or a tower whose class token would be kept.
    """
    language, kind = config["text_config"], config.get("connector_type")
    if kind == "mof_mlp":
        system = SYSTEM.variant("tinyllama-mof")
        return replace(system, backbone=backbone_of(system.backbone, language), variants={})
    if config.get("vision_feature_select_strategy", "patch") != "patch":
        raise SpecError(f"vision_feature_select_strategy {config['vision_feature_select_strategy']!r} is not 'patch'")
    said = {**config, "mm_projector_type": kind, "mm_vision_select_layer": config.get("vision_feature_layer", -2)}
    system = variant_of(SYSTEM, config, language)
    image = system.continuous("image")
    encoder = encoder_of(image.encoder, said)
    image = replace(image, encoder=encoder, connector=connector_of(said), views=views_of(image.views, said, encoder))
    return replace(
        system,
        inputs={"image": image},
        backbone=backbone_of(system.backbone, language),
        layout=replace(system.layout, rules=rules_for(image.connector, system.layout.rules)),
        published_params={},
        variants={},
    )
