"""Honeybee: CLIP ViT-L/14 -> C-Abstractor or D-Abstractor -> Vicuna-1.5; answers in text."""

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from typing import Any

from omniform.backbones.llama import VICUNA_7B, VICUNA_13B
from omniform.connectors.c_abstractor import CAbstractor
from omniform.connectors.d_abstractor import DAbstractor
from omniform.decoders.text import Text
from omniform.encoders.clip import CLIP_L_224
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.geometry import Hw, SpecError
from omniform.parts import Connector
from omniform.prompt import Join, Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System
from omniform.systems._llava_release import backbone_of
from omniform.views.fixed import Fixed

# honeybee/tokenization_honeybee.py:81-180: signs of speakers, and what stands between them, are tokenized apart; every
# picture is a turn of its own. Words of the system: pipeline/data_utils/constants.py:1-4
HUMAN_AI = Prompt(
    system="The following is a conversation between a curious human and AI assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    user="\nHuman: {content}",
    join=Join(between="\nHuman: "),
    header="\nAI: ",
    answer="{text}</s>",
    media={"image": "{media}"},
    piecewise=True,
    stop=("</s>",),
)
# the same file:104-124, what captions are learned with
CAPTION = Prompt(
    user="{media}", header="", answer="{text}</s>", media={"image": "{media}"}, piecewise=True, stop=("</s>",)
)
WIDE: Hw = (24, 24)
LARGE = {"backbone": VICUNA_13B, "inputs.image.encoder.image": 336}

SYSTEM = System(
    slug="honeybee",
    title="Honeybee",
    date="2023/12",
    inputs={
        "image": Continuous(
            encoder=CLIP_L_224.but(feature_layer=-1),
            connector=CAbstractor(),
            views=Fixed(fit="squash"),
            fusion=Splice(),
        )
    },
    backbone=VICUNA_7B,
    outputs={"text": Text()},
    prompt=HUMAN_AI,
    stages=(
        Stage(
            name="pretrain",
            learn=(Learn(part="image.connector", lr=1e-4),),
            data="coyo-100m, blip-capfilt in equal parts",
            batch=256,
            steps=50_000,
            warmup=0.04,
            weight_decay=0.01,
            max_positions=1025,
            prompt=CAPTION,
            source="configs/pretrain.yaml, configs/data_config/pt_default.yaml",
        ),
        Stage(
            name="finetune",
            learn=(Learn(part="image.connector", lr=2e-5), Learn(part="backbone", lr=2e-5)),
            data="honeybee-instruct-mix",
            batch=128,
            steps=4_000,
            warmup=0.0375,
            weight_decay=1e-4,
            max_positions=1024,
            source="configs/finetune.yaml, configs/data_config/ft_default.yaml",
        ),
    ),
    layout=Layout(
        rules=(
            ("vision_model.", "inputs.image.encoder."),
            ("abstractor.net.0.", "inputs.image.connector.before."),
            ("abstractor.net.2.", "inputs.image.connector.after."),
            ("abstractor.", "inputs.image.connector."),
            ("language_model.", "backbone.lm."),
        ),
        architectures=("HoneybeeForConditionalGeneration",),
    ),
    source=Source(
        paper="arXiv:2312.06742",
        code="khanrc/honeybee@68a8d84",
        notes="The best results come from 10,000 steps of the second stage. The learning rate ends at a tenth of its "
        "peak (pretrain) or a twentieth (finetune); Adam has betas 0.9, 0.98 and epsilon 1e-6. Captions are learned on "
        "random crops of at least half the picture.",
    ),
    published_params={"image.encoder": 303179776, "image.connector": 37070336, "backbone": 6738415616},
    variants={
        "d-7b": {"inputs.image.connector": DAbstractor(), "published_params": {"image.connector": 55616352}},
        "c-7b-m256": {"inputs.image.connector": CAbstractor(positions=256)},
        "c-13b-m256": {
            **LARGE,
            "inputs.image.connector": CAbstractor(positions=256, trained=WIDE),
            "published_params": {"image.connector": 47885824},
        },
        "d-13b-m256": {**LARGE, "inputs.image.connector": DAbstractor(positions=256, trained=WIDE)},
        "c-13b-m576": {**LARGE, "inputs.image.connector": CAbstractor(positions=576, trained=WIDE)},
    },
)


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it: "vision_config", "projector_config" and "text_config"."""
    vision, projector, language = (config[f"{part}_config"] for part in ("vision", "projector", "text"))
    image = SYSTEM.continuous("image")
    encoder = CLIP_L_224.but(**type(CLIP_L_224).fields_of(vision), feature_layer=_layer(projector))
    side = encoder.image // encoder.patch
    return replace(
        SYSTEM,
        inputs={"image": replace(image, encoder=encoder, connector=_connector(projector, (side, side)))},
        backbone=backbone_of(SYSTEM.backbone, language),
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )


def _layer(projector: Mapping[str, Any]) -> int:
    layer = projector.get("feature_layer_index", -1)
    if not isinstance(layer, int):
        raise SpecError(f"feature_layer_index {layer!r} joins several layers; no release does, and it is not here")
    return layer


def _connector(projector: Mapping[str, Any], trained: Hw) -> Connector:
    """The abstractor that a release names.

    Raises:
        SpecError: an ablation that was not released.
    """
    kind, positions = projector.get("projector_type", "c-abs"), projector["num_query_tokens"]
    released = {"num_eos_tokens": 0, "pos_emb": True, "prenorm": False, "pooled_v_target": "query"}
    other = [f"{key} {projector[key]!r}" for key, value in released.items() if projector.get(key, value) != value]
    if kind not in ("c-abs", "d-abs") or other or isqrt(positions) ** 2 != positions:
        raise SpecError(f"projector_type {kind!r} {' '.join(other)} with {positions} queries is none of the releases")
    if kind == "c-abs":
        names = {"depth": "depth", "width": "hidden_size", "mlp_depth": "mlp_depth"}
        return CAbstractor(positions=positions, trained=trained, **_said(projector, names))
    names = {
        "width": "d_model", "layers": "decoder_layers", "heads": "decoder_attention_heads",
        "points": "decoder_n_points", "mlp_dim": "decoder_ffn_dim", "dropout": "dropout",
    }  # fmt: skip
    return DAbstractor(positions=positions, trained=trained, **_said(projector, names))


def _said(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Fields under their keys in a configuration, as far as it says them."""
    return {field: config[key] for field, key in names.items() if key in config}
