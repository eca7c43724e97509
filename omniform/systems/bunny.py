"""Bunny: SigLIP-SO400M, in its last versions at three scales up to 1152 px -> 2-layer MLP -> small language models."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import LLAMA_3_8B
from omniform.backbones.phi import PHI_1_5, PHI_2
from omniform.backbones.phi3 import PHI_3_MINI_4K
from omniform.backbones.qwen2 import QWEN1_5_1_8B
from omniform.backbones.stablelm import STABLELM_2_1_6B
from omniform.connectors.mlp import Mlp
from omniform.decoders.text import Text
from omniform.encoders.s2 import S2
from omniform.encoders.siglip import SIGLIP_SO400M_384, SigLip
from omniform.fusion.splice import Splice
from omniform.geometry import SpecError
from omniform.parts import Encoder
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Lora, Source, Stage, System
from omniform.systems._conversations import PLAIN, ending
from omniform.systems._llava_release import MLP_RULES, NAMED_IN, llava_release, variant_of
from omniform.views.fixed import Fixed

# bunny/conversation.py:170-236
BUNNY, PHI3 = ending("<|endoftext|>", bos=False), ending("<|endoftext|>", bos=True)
LLAMA = ending("<|end_of_text|>", bos=True)

TUTORIALS = "script/train/tutorials/"


def pretrain(lr: float, prompt: Prompt, source: str) -> Stage:
    return Stage(
        name="pretrain", learn=(Learn(part="image.connector", lr=lr),), data="bunny-pretrain-laion-2m", batch=256,
        prompt=replace(PLAIN, bos=prompt.bos), views={"image": Fixed(fit="squash")}, source=TUTORIALS + source,
    )  # fmt: skip


def tune(
    name: str, data: str, rank: int, lr: float, connector: float, longest: int, source: str, encoder: bool = False
) -> Stage:
    """Low-rank adapters on the language model; where the encoder learns, it learns at their rate (train.py:352-355)."""
    seen = (Learn(part="image.encoder", lr=lr),) if encoder else ()
    return Stage(
        name=name, learn=(*seen, Learn(part="image.connector", lr=connector)), data=data, batch=128,
        lora=Lora(rank=rank, alpha=256, dropout=0.05, lr=lr), max_positions=longest, source=TUTORIALS + source,
    )  # fmt: skip


def first(name: str, backbone: Any, total: int, *, architecture: str) -> dict[str, Any]:
    """Version 1.0 on a small language model: frozen encoder, one scale, one round of tuning."""
    source = f"bunny-{name}-siglip-lora.md:"
    return {
        "inputs.image.encoder": SIGLIP_SO400M_384, "backbone": backbone, "prompt": BUNNY,
        "layout.architectures": (architecture,), "published_params": {"total": total},
        "stages": (
            pretrain(5e-4, BUNNY, f"{source}16-40"),
            tune("finetune", "bunny-695k", 128, 2e-4, 2e-5, 2048, f"{source}60-88"),
        ),
    }  # fmt: skip


SYSTEM = System(
    slug="bunny",
    title="Bunny",
    date="2024/02",
    inputs={
        "image": Continuous(
            encoder=S2(inner=SIGLIP_SO400M_384), connector=Mlp(depth=2), views=Fixed(fit="pad"), fusion=Splice()
        )
    },
    backbone=LLAMA_3_8B,
    outputs={"text": Text()},
    prompt=LLAMA,
    stages=(
        pretrain(1e-3, LLAMA, "Bunny-v1.1-Llama-3-8B-V.md:18-43"),
        tune("recipe-1", "bunny-allava-1.3m", 256, 1e-4, 1e-5, 4096, "Bunny-v1.1-Llama-3-8B-V.md:65-94"),
        tune("recipe-2", "bunny-llava-allava-2m", 256, 1e-4, 1e-5, 4096, "Bunny-v1.1-Llama-3-8B-V.md:114-144", True),
    ),
    layout=Layout(
        rules=MLP_RULES,
        named_in=NAMED_IN,
        architectures=("BunnyLlamaForCausalLM",),
        transformers="LlavaForConditionalGeneration",
    ),
    source=Source(
        paper="arXiv:2402.11530",
        code="BAAI-DCAI/Bunny@08273ac",
        notes="Where there are two recipes, both begin after pretraining, and the release is their weighted mean: "
        "0.42 and 0.58 of v1.1-Llama-3-8B-V, 0.5 and 0.5 of Llama-3-8B-V, 0.3 and 0.7 of the 4B. "
        "The releases on MiniCPM and those with EVA-CLIP are not here.",
    ),
    published_params={"image.encoder": 428225600, "image.connector": 30941184, "backbone": 8030261248},
    survey_notes={"llm_backbone": "the survey leaves out the sizes on Phi-3 and Qwen1.5"},
    variants={
        "llama-3-8b": {
            "inputs.image.encoder": SIGLIP_SO400M_384, "published_params": {"total": 8479990848},
            "stages": (
                pretrain(1e-3, LLAMA, "Bunny-Llama-3-8B-V.md:18-42"),
                tune("recipe-1", "bunny-695k", 128, 2e-4, 2e-5, 2048, "Bunny-Llama-3-8B-V.md:64-92"),
                tune("recipe-2", "bunny-llava-1.4m", 128, 1e-4, 1e-5, 2048, "Bunny-Llama-3-8B-V.md:112-141", True),
            ),
        },
        "v1.1-4b": {
            "backbone": PHI_3_MINI_4K, "prompt": PHI3, "layout.architectures": ("BunnyPhi3ForCausalLM",),
            "published_params": {"total": 4269365312},
            "stages": (
                pretrain(1e-3, PHI3, "Bunny-v1.1-4B.md:18-43"),
                tune("recipe-1", "bunny-allava-1.3m", 128, 2e-4, 2e-5, 4096, "Bunny-v1.1-4B.md:65-94"),
                tune("recipe-2", "bunny-llava-allava-2m", 128, 2e-4, 2e-5, 4096, "Bunny-v1.1-4B.md:114-144", True),
            ),
        },
        "v1.0-4b": {
            "inputs.image.encoder": SIGLIP_SO400M_384, "backbone": PHI_3_MINI_4K, "prompt": PHI3,
            "layout.architectures": ("BunnyPhi3ForCausalLM",), "published_params": {"total": 4262287424},
            "stages": (
                pretrain(1e-3, PHI3, "Bunny-v1.0-4B.md:18-42"),
                tune("recipe-1", "bunny-695k", 128, 2e-4, 2e-5, 4096, "Bunny-v1.0-4B.md:64-92"),
                tune("recipe-2", "bunny-llava-1.4m", 128, 2e-4, 2e-5, 4096, "Bunny-v1.0-4B.md:112-141", True),
            ),
        },
        "v1.0-3b": first("phi-2", PHI_2.but(head_bias=False), 3217366080, architecture="BunnyPhiForCausalLM"),
        "phi-1.5": first("phi-1.5", PHI_1_5.but(head_bias=False), 1853002816, architecture="BunnyPhiForCausalLM"),
        "v1.0-2b-zh": first("qwen1.5-1.8b", QWEN1_5_1_8B, 2271611968, architecture="BunnyQwen2ForCausalLM"),
        "stablelm-2": first("stablelm-2", STABLELM_2_1_6B, 2080000000, architecture="BunnyStableLMForCausalLM"),
    },
)  # fmt: skip

RENAMED = {"rope_pct": "partial_rotary_factor", "norm_eps": "layer_norm_eps"}
"""Keys of StableLM's configuration before transformers had it."""


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it."""
    if "BunnyMiniCPMForCausalLM" in (config.get("architectures") or ()):
        raise SpecError("its language model, MiniCPM, is not among the backbones here")
    renamed = {new: config[old] for old, new in RENAMED.items() if old in config}
    return llava_release(variant_of(SYSTEM, config), {**config, **renamed}, encoder=_encoder(config))


def _encoder(config: Mapping[str, Any]) -> Encoder:
    """Features are always those before the last layer (bunny/model/multimodal_encoder/siglip/siglip_encoder.py)."""
    own = config.get("vision_config")
    inner = SigLip(**SigLip.fields_of(own)) if own else SIGLIP_SO400M_384
    if not config.get("use_s2"):
        return inner
    scales = config.get("s2_scales") or "384,768,1152"
    sizes = [int(s) for s in (scales.split(",") if isinstance(scales, str) else scales)]
    return S2(inner=inner, sides=tuple(size // inner.image for size in sizes))
