"""MoE-LLaVA: CLIP ViT-L/14 at 336 px (or SigLIP at 384) -> 2-layer MLP -> small language models with routed experts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.mistral import MISTRAL_7B_V01
from omniform.backbones.phi import PHI_2
from omniform.backbones.qwen import QWEN_1_8B
from omniform.backbones.stablelm import STABLELM_2_1_6B
from omniform.connectors.mlp import Mlp
from omniform.decoders.text import Text
from omniform.encoders.clip import CLIP_L_336
from omniform.encoders.siglip import SIGLIP_SO400M_384
from omniform.experts.routed import Routed
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.geometry import SpecError
from omniform.parts import Encoder, Rules
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System
from omniform.systems._conversations import PLAIN, ending
from omniform.systems._llava_release import CONNECTOR, connector_of, encoder_of, llava_release, variant_of
from omniform.systems._qwen_release import QWEN_MLP, language_rules
from omniform.views.fixed import Fixed

# moellava/conversation.py:276-323; labels moellava/train/train.py:565-757
PHI, OPENCHAT = ending("<|endoftext|>", bos=False), ending("<|end_of_turn|>", bos=True)

EXPERTS = Routed(experts=4, chosen=2, every=2, capacity=1.5, eval_capacity=2.0, balance=0.01)
"""scripts/v1/phi2/finetune_moe.sh:3-13; moellava/train/train.py:75-116; layers llava_phi_moe.py:473-487."""

# --- layout ------------------------------------------------------------------------------------------------------

ROUTER, EXPERT = "mlp.deepspeed_moe.gate.wg.", "mlp.deepspeed_moe.experts.deepspeed_experts."


def rules(layers: int, experts: Routed) -> Rules:
    """Key rules of a release whose language model has transformers' names."""
    return (
        *(
            (f"model.layers.{i}.{theirs}", f"backbone.experts.layers.{i}.{ours}")
            for i in experts.layers(layers)
            for theirs, ours in ((ROUTER, "router."), (EXPERT, "experts."))
        ),
        *_media_rules("model."),
        ("", "backbone.lm."),
    )


def qwen_rules(layers: int, experts: Routed) -> Rules:
    """Key rules of a release with Qwen's own names."""
    routed = {}
    for i in experts.layers(layers):
        here, there = f"transformer.h.{i}.", f"backbone.experts.layers.{i}."
        routed[here + ROUTER] = there + "router."
        for number in range(experts.experts):
            routed.update({f"{here}{EXPERT}{number}.{a}": f"{there}experts.{number}.{b}" for a, b in QWEN_MLP.items()})
    return (*routed.items(), *_media_rules("transformer."), *language_rules(layers))


def _media_rules(trunk: str) -> Rules:
    return (
        (f"{trunk}image_tower.image_tower.", "inputs.image.encoder."),
        (f"{trunk}mm_projector.image_spatial_proj.", CONNECTOR + "layers."),
    )


# --- stages ------------------------------------------------------------------------------------------------------


def stages(folder: str, prompt: Prompt, whole: Fixed) -> tuple[Stage, ...]:
    """The three stages of one size.

    Args:
        whole: views of the first stage, whose pictures are not padded.
    """
    return (
        Stage(
            name="pretrain", learn=(Learn(part="image.connector", lr=1e-3),), data="llava-pretrain-558k", batch=256,
            prompt=replace(PLAIN, bos=prompt.bos), views={"image": whole}, experts="joined",
            source=f"scripts/v1/{folder}/pretrain.sh:7-38, on 8 GPUs; views moellava/train/train.py:105",
        ),
        Stage(
            name="tune", learn=(Learn(part="image.connector", lr=2e-5), Learn(part="backbone", lr=2e-5)),
            data="moe-llava-hybrid-ft-964k", batch=128, experts="joined",
            source=f"scripts/v1/{folder}/finetune.sh:6-42, on 8 GPUs",
        ),
        Stage(
            name="moe-tune", learn=(Learn(part="backbone.experts", lr=2e-5),), data="llava-mix-665k", batch=128,
            source=f"arXiv:2401.15947 section 3.3; scripts/v1/{folder}/finetune_moe.sh:3-46, on 8 GPUs",
        ),
    )  # fmt: skip


CROP, SQUASH = Fixed(fit="crop"), Fixed(fit="squash")

# the first patch goes where other towers have a class token (moellava/model/multimodal_encoder/siglip_encoder.py:33-41)
SIGLIP = SIGLIP_SO400M_384.but(drop_first=True)


def on(backbone: Any, folder: str, prompt: Prompt, architecture: str, total: int) -> dict[str, Any]:
    """Another language model, with CLIP."""
    found = qwen_rules if backbone is QWEN_1_8B else rules
    return {
        "backbone": backbone.but(moe=EXPERTS), "prompt": prompt, "stages": stages(folder, prompt, CROP),
        "layout.rules": found(backbone.layers, EXPERTS), "layout.architectures": named(architecture),
        "published_params": {"total": total},
    }  # fmt: skip


def named(architecture: str) -> tuple[str, ...]:
    """The class of training, and the one that reads its weights."""
    return f"MoELLaVA{architecture}ForCausalLM", f"EvalMoELLaVA{architecture}ForCausalLM"


def finer(changes: Mapping[str, Any], folder: str, total: int) -> dict[str, Any]:
    """The size with SigLIP at 384 px."""
    return {
        **changes, "inputs.image.encoder": SIGLIP, "stages": stages(folder, PHI, SQUASH),
        "layout.separate": {"inputs.image.encoder.": "google/siglip-so400m-patch14-384"},
        "published_params": {"total": total},
    }  # fmt: skip


STABLELM = on(STABLELM_2_1_6B, "stablelm", PHI, "Stablelm", 3200124928)

SYSTEM = System(
    slug="moe-llava",
    title="MoE-LLaVA",
    date="2024/01",
    inputs={"image": Continuous(encoder=CLIP_L_336, connector=Mlp(depth=2), views=Fixed(fit="pad"), fusion=Splice())},
    backbone=PHI_2.but(head_bias=False, moe=EXPERTS),
    outputs={"text": Text()},
    prompt=PHI,
    stages=stages("phi2", PHI, CROP),
    layout=Layout(
        rules=rules(PHI_2.layers, EXPERTS),
        separate={"inputs.image.encoder.": "openai/clip-vit-large-patch14-336"},
        named_in={"inputs.image.encoder.": "mm_image_tower"},
        architectures=named("Phi"),
    ),
    source=Source(
        paper="arXiv:2401.15947",
        code="PKU-YuanGroup/MoE-LLaVA@6cb5f66",
        notes="In the last stage the paper trains the layers with experts only, and so do we; the scripts also leave "
        "free the MLPs of the other layers, by their names, and the connector (moellava/model/llava_arch.py:107-112). "
        "There, experts choose among all tokens of a batch, padding included.",
    ),
    published_params={
        "image.encoder": 303507456, "image.connector": 9180160, "backbone": 5296993280, "total": 5609680896,
    },
    survey_notes={
        "llm_backbone": "the survey cuts StableLM's name, and leaves out the size on OpenChat",
        "modality_encoder": "the survey leaves out the sizes on SigLIP",
    },
    variants={
        "stablelm-1.6b": STABLELM,
        "qwen-1.8b": on(QWEN_1_8B, "qwen", PHI, "QWen", 3364126720),
        "openchat-7b": on(
            MISTRAL_7B_V01.but(name="OpenChat", vocab=32002, context=8192), "openchat", OPENCHAT, "Mistral", 16022214656
        ),
        "phi2-384": finer({}, "phi2", 5734726720),
        "stablelm-1.6b-384": finer(STABLELM, "stablelm", 3325105216),
    },
)  # fmt: skip

# --- release -----------------------------------------------------------------------------------------------------

RENAMED: Mapping[str, str] = FrozenMap({
    "rope_pct": "partial_rotary_factor", "norm_eps": "layer_norm_eps", "layer_norm_epsilon": "rms_norm_eps",
    "rotary_emb_base": "rope_theta", "image_projector_type": "mm_projector_type",
})  # fmt: skip
"""Keys of StableLM's and Qwen's own configurations, and of this one's projector -> those that are read."""
KINDS: Mapping[str, str] = FrozenMap({"moe_llava_qwen": "qwen2"})
OWN = "moe_llava_"
"""Prefix of the language model's kind in config.json."""


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it.

    Raises:
        SpecError: a language model without experts, with a residual expert, or with experts in other layers than every
            n-th.
    """
    kind = config.get("model_type", "")
    renamed = {new: config[old] for old, new in RENAMED.items() if old in config}
    said = {**config, **renamed, "model_type": KINDS.get(kind, kind.removeprefix(OWN))}
    if kind == "moe_llava_qwen":
        said["intermediate_size"] = config["intermediate_size"] // 2  # of both branches together
    size = variant_of(SYSTEM, said)
    size = llava_release(size, said, encoder=_encoder(size, said), connector=connector_of(said))
    backbone: Any = size.backbone
    experts = experts_of(config.get("moe") or {}, backbone.layers)
    found = qwen_rules if kind == "moe_llava_qwen" else rules
    return size.but({"backbone.moe": experts, "layout.rules": found(backbone.layers, experts)})


def _encoder(size: System, config: Mapping[str, Any]) -> Encoder:
    own = config.get("vision_config") or {}
    seen = "siglip" in own.get("model_type", "") or str(config.get("mm_image_tower", "")).startswith("google/")
    return encoder_of(SIGLIP if seen else size.continuous("image").encoder, config)


def experts_of(said: Mapping[str, Any], layers: int) -> Routed:
    """The experts that `moe` in config.json describes."""
    numbers, counts = said.get("moe_layers_idx") or [], set(said.get("num_experts") or [])
    every = numbers[1] - numbers[0] if len(numbers) > 1 else layers
    if list(numbers) != list(range(0, layers, every)) or len(counts) != 1:
        raise SpecError(
            f"experts {sorted(counts)} in layers {numbers}; here every n-th layer from 0 on has equally many"
        )
    if said.get("use_residual"):
        raise SpecError("use_residual: a further expert that every position passes is not here")
    return Routed(
        experts=counts.pop(), chosen=said["top_k_experts"], every=every, capacity=said["capacity_factor"],
        eval_capacity=said["eval_capacity_factor"], min_capacity=said["min_capacity"],
        balance=said["router_aux_loss_coef"],
    )  # fmt: skip
