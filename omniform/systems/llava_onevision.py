"""LLaVA-OneVision: SigLIP-SO400M at 384 px -> 2-layer MLP -> Qwen-2; one picture in tiles, several, or a video."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.qwen2 import QWEN2_0_5B, QWEN2_7B, QWEN2_72B
from omniform.connectors.mlp import Mlp
from omniform.decoders.text import Text
from omniform.encoders.siglip import SIGLIP_SO400M_384, SigLip
from omniform.fusion.splice import Splice
from omniform.geometry import SpecError
from omniform.parts import Encoder, Views
from omniform.spec import Continuous, Layout, Learn, Shared, Source, Stage, System, Undisclosed
from omniform.systems._conversations import PLAIN, QWEN_1_5
from omniform.systems._llava_release import MLP_RULES, NAMED_IN, llava_release, variant_of, views_of
from omniform.views.among import Among
from omniform.views.any_res import AnyRes, grids_up_to
from omniform.views.fixed import Fixed
from omniform.views.frames import Frames

EVERYTHING = (
    Learn(part="image.encoder", lr=2e-6),
    Learn(part="image.connector", lr=1e-5),
    Learn(part="backbone", lr=1e-5),
)
PADDED = Fixed(fit="pad", newline="newline")
STAGES = (
    Stage(
        name="pretrain",
        learn=(Learn(part="image.connector", lr=1e-3),),
        data="llava-pretrain-558k",
        batch=Undisclosed("16 a GPU; how many GPUs is not in the script"),
        max_positions=8192,
        prompt=replace(PLAIN, bos=False),
        views={"image": Fixed(fit="squash")},
        source="scripts/train/pretrain_siglip.sh:24-47; views llava/train/train.py:82, 125",
    ),
    Stage(
        name="knowledge",
        learn=EVERYTHING,
        data="llava-onevision-mid-4m",
        batch=Undisclosed("4 a GPU; how many GPUs is not in the script"),
        max_positions=32768,
        views={"image": AnyRes(grids=((2, 1), (1, 2), (2, 2), (1, 3), (3, 1)))},
        source="scripts/train/direct_finetune_siglip_a4.sh:29-57, the closest that is published",
    ),
    Stage(
        name="single-image",
        learn=EVERYTHING,
        data="llava-onevision-single-image-3.2m",
        batch=256,
        max_positions=32768,
        source="scripts/train/finetune_si.sh:8-9, 33-64",
    ),
    Stage(
        name="onevision",
        learn=EVERYTHING,
        data="llava-onevision-1.6m",
        batch=256,
        max_positions=32768,
        source="scripts/train/finetune_ov.sh:8-9, 33-72",
    ),
)

SYSTEM = System(
    slug="llava-onevision",
    title="LLaVA-OneVision",
    date="2024/09",
    inputs={
        "image": Continuous(
            # the last layer is deleted when the tower is made, its norm stays unused
            # (llava/model/multimodal_encoder/siglip_encoder.py:560-575)
            encoder=SIGLIP_SO400M_384.but(layers=26, feature_layer=-1, head=False),
            connector=Mlp(depth=2),
            views=Among(alone=AnyRes(grids=grids_up_to(6, 6), max_tiles=9), together=PADDED),
            fusion=Splice(),
        ),
        # llava/utils.py:25-38, llava/model/llava_arch.py:170-192, 296; frames_upbound of finetune_ov.sh:72
        "video": Shared(input="image", views=Frames(most=32, per_second=1.0, pool=2, newline="newline")),
    },
    backbone=QWEN2_7B,
    outputs={"text": Text()},
    prompt=QWEN_1_5,
    stages=STAGES,
    layout=Layout(
        rules=MLP_RULES,
        named_in=NAMED_IN,
        architectures=("LlavaQwenForCausalLM",),
        transformers="LlavaOnevisionForConditionalGeneration",
    ),
    source=Source(
        paper="arXiv:2408.03326",
        code="LLaVA-VL/LLaVA-NeXT@df17966",
        notes="The -chat releases went through three more rounds of preference tuning (docs/LLaVA_OneVision_Chat.md).",
    ),
    published_params={"image.encoder": 397747744, "image.connector": 16984576, "backbone": 7615616512},
    variants={
        "7b-si": {"stages": STAGES[:3]},
        "0.5b": {"backbone": QWEN2_0_5B, "published_params": {"total": 893618208}},
        "72b": {"backbone": QWEN2_72B, "published_params": {"total": 73180522016}},
    },
)


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it; `mm_vision_select_layer` is ignored, as by the original tower."""
    system = variant_of(SYSTEM, config)
    encoder = _encoder(system, config)
    views = _views(config, encoder)
    sized = llava_release(system, config, encoder=encoder, views=views)
    return sized.but({"inputs.video.views": _frames(config)})


def _encoder(system: System, config: Mapping[str, Any]) -> Encoder:
    own = config.get("vision_config")
    if not own:
        return system.continuous("image").encoder
    fields = SigLip.fields_of(own)
    return SigLip(**{**fields, "layers": fields["layers"] - 1, "feature_layer": -1, "head": False})


def _views(config: Mapping[str, Any], encoder: Encoder) -> Views:
    if (config.get("image_aspect_ratio") or "square") in ("pad", "square"):
        return views_of(PADDED, config, encoder)
    alone = AnyRes(grids=grids_up_to(6, 6))
    return Among(alone=views_of(alone, config, encoder), together=PADDED)


NEWLINES = {"one_token": "end", "frame": "frame", "grid": "row"}
"""`mm_newline_position` -> where the learned row of a video stands (llava/model/llava_arch.py:296-330)."""


def _frames(config: Mapping[str, Any]) -> Frames:
    position = config.get("mm_newline_position", "one_token")
    pooling = config.get("mm_spatial_pool_mode", "bilinear")
    if pooling != "bilinear" or position not in (*NEWLINES, "no_token"):
        raise SpecError(
            f"mm_spatial_pool_mode {pooling!r} and mm_newline_position {position!r}: known are bilinear, and "
            f"{', '.join(NEWLINES)} or no_token"
        )
    frames: Any = SYSTEM.inputs["video"]
    if position == "no_token":
        return frames.views.but(newline=None)
    return frames.views.but(newline_at=NEWLINES[position])
