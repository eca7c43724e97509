"""Qwen2-VL: a ViT of 675M at native resolution -> merged patches -> Qwen2 with positions in time and space."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.qwen2_axes import QWEN2_AXES_1_5B, QWEN2_AXES_7B, QWEN2_AXES_72B
from omniform.connectors.patch_merger import PatchMerger
from omniform.decoders.text import Text
from omniform.encoders.native_vit import VIT_675M
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.geometry import Positions
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Shared, Source, Stage, System, Undisclosed
from omniform.systems._llava_release import backbone_of, variant_of
from omniform.views.native import Native, NativeFrames

CELL = 28 * 28
"""Pixels of one position of the 14-pixel patches, 2 x 2 of which are merged."""
# README.md:584; learned are answers and what closes them, as in the training code that README.md:1324 points to
# (hiyouga/LLaMA-Factory@ff6d4d1 src/llamafactory/data/template.py:2168-2182)
CHATML = Prompt(
    system="You are a helpful assistant.",
    system_turn="<|im_start|>system\n{system}<|im_end|>\n",
    user="<|im_start|>user\n{content}<|im_end|>\n",
    header="<|im_start|>assistant\n",
    answer="{text}<|im_end|>\n",
    media=dict.fromkeys(("image", "video"), "<|vision_start|>{media}<|vision_end|>"),
    bos=False,
    stop=("<|im_end|>",),
)
UNPUBLISHED = Undisclosed("the paper tells what learns and on how many tokens, nothing more")
VISION, EVERYTHING = ("image.encoder", "image.connector"), ("image.encoder", "image.connector", "backbone")


def stage(name: str, parts: tuple[str, ...], data: str) -> Stage:
    learn = tuple(Learn(part=part, lr=UNPUBLISHED) for part in parts)
    return Stage(name=name, learn=learn, data=data, source="arXiv:2409.12191 section 2.2", **UNPUBLISHED.for_all())


SYSTEM = System(
    slug="qwen2-vl",
    title="Qwen2-VL",
    date="2024/09",
    inputs={
        "image": Continuous(
            encoder=VIT_675M,
            connector=PatchMerger(),
            views=Native(min_pixels=4 * CELL, max_pixels=16384 * CELL),
            fusion=Splice(),
        ),
        "video": Shared(
            input="image",
            views=NativeFrames(min_pixels=128 * CELL, max_pixels=768 * CELL, total_pixels=24576 * CELL),
        ),
    },
    backbone=QWEN2_AXES_7B,
    outputs={"text": Text()},
    prompt=CHATML,
    stages=(
        stage("vision", VISION, "image-text pairs, 600 billion tokens"),
        stage("pretrain", EVERYTHING, "interleaved, question answering, video, documents, text: 800 billion tokens"),
        stage("tune", ("backbone",), "instructions, not published"),
    ),
    layout=Layout(
        rules=(
            ("visual.merger.", "inputs.image.connector."),
            ("visual.", "inputs.image.encoder."),
            ("model.visual.merger.", "inputs.image.connector."),
            ("model.visual.", "inputs.image.encoder."),
            *((f"model.{part}.", f"backbone.lm.model.{part}.") for part in ("embed_tokens", "layers", "norm")),
            ("model.language_model.", "backbone.lm.model."),
            ("lm_head.", "backbone.lm.lm_head."),
        ),
        architectures=("Qwen2VLForConditionalGeneration",),
    ),
    source=Source(
        paper="arXiv:2409.12191",
        code="QwenLM/Qwen2-VL@35ba6e1; huggingface/transformers@v4.45.2 src/transformers/models/qwen2_vl",
        notes="The ViT of 675M counts the merger of the 7B. Words go on behind the largest position of a medium, as in "
        "the first release; transformers from 5 on places them behind the larger side of a frame, which differs for "
        "videos with more pairs of frames than that. What the merger does in the first and the last stage is not "
        "said; here it goes with the ViT. Places in pictures are words between <|box_start|> and <|box_end|>, in "
        "thousandths.",
    ),
    positions=Positions(media="map"),
    special_tokens=tuple(
        f"<|{name}|>"
        for name in (
            "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end", "vision_start",
            "vision_end", "vision_pad", "image_pad", "video_pad",
        )
    ),
    published_params={
        "image.encoder": 631183360, "image.connector": 44575744, "backbone": 7615616512, "total": 8291375616,
    },
    variants={
        "2b": {"backbone": QWEN2_AXES_1_5B, "published_params": {"total": 2208985600}},
        "72b": {"backbone": QWEN2_AXES_72B, "published_params": {"total": 73405560320}},
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it; the language model's keys stand at the top, or in "text_config"."""
    language = {**config, **config.get("text_config", {})}
    sized = variant_of(SYSTEM, config, language)
    image = sized.continuous("image")
    connector, encoder = image.connector, _encoder(config.get("vision_config", {}))
    if "spatial_merge_size" in config.get("vision_config", {}):
        connector = connector.but(fold=config["vision_config"]["spatial_merge_size"])
    return replace(
        sized,
        inputs={**sized.inputs, "image": replace(image, encoder=encoder, connector=connector)},
        backbone=backbone_of(sized.backbone, language),
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )


VISION_KEYS: Mapping[str, str] = FrozenMap(
    width="embed_dim", layers="depth", heads="num_heads", patch="patch_size", together="temporal_patch_size",
    activation="hidden_act",
)  # fmt: skip


def _encoder(config: Mapping[str, Any]) -> Any:
    said = {field: config[key] for field, key in VISION_KEYS.items() if key in config}
    width = said.get("width", VIT_675M.width)
    if "mlp_ratio" in config or "width" in said:
        said["mlp_dim"] = width * config.get("mlp_ratio", 4)
    return VIT_675M.but(**said)
