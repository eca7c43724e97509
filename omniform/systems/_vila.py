"""VILA's conversation templates, and the configurations in which VILA-1.5 and NVILA are released."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.connectors.downsample_mlp import DownsampleMlp
from omniform.encoders.clip import ClipVit
from omniform.encoders.s2 import S2
from omniform.encoders.siglip import SigLip
from omniform.encoders.vit import Vit
from omniform.frozen import FrozenMap
from omniform.geometry import SpecError
from omniform.parts import Connector, Encoder, Views
from omniform.prompt import Join, Prompt
from omniform.spec import Continuous, Shared, System
from omniform.systems._conversations import HELPFUL, VICUNA_V1
from omniform.systems._llava_release import backbone_of, connector_of, llava_release, rules_for, variant_of
from omniform.views.among import Among
from omniform.views.dynamic_s2 import DynamicS2
from omniform.views.fixed import Fixed
from omniform.views.frames import Frames
from omniform.views.pooled_frames import PooledFrames
from omniform.views.tiles import Tiles

# NVlabs/VILA@1c88211 llava/data/dataset.py:123-148: media stay in place, each on a line of its own
OWN_LINE = Join(around=(" ", "\n"))
MEDIA: Mapping[str, str] = FrozenMap(image="{media}", video="{media}")
VICUNA = replace(VICUNA_V1, user="USER: {content} ", join=OWN_LINE, media=MEDIA)
# the same commit, llava/conversation.py:435-446: answers stand under the system's header, as released
LLAMA_3 = Prompt(
    system=HELPFUL,
    system_turn="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|end_of_text|>",
    user="<|start_header_id|>user<|end_header_id|>\n\n{content}<|end_of_text|>",
    join=OWN_LINE,
    header="<|start_header_id|>system<|end_header_id|>\n\n",
    answer="{text}<|end_of_text|>",
    media=MEDIA,
    bos=False,
    stop=("<|end_of_text|>",),
)
# corrected in 54c9706 (b760c34 llava/conversation.py:65-74, 151-161): the last turn ends with another sign
LLAMA_3_FIX = replace(
    LLAMA_3,
    system_turn="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
    user="<|start_header_id|>user<|end_header_id|>\n\n{content}<|eot_id|>",
    header="<|start_header_id|>assistant<|end_header_id|>\n\n",
    answer="{text}<|eot_id|>",
    last_answer="{text}<|end_of_text|>",
    stop=("<|eot_id|>", "<|end_of_text|>"),
)
# b760c34 llava/model/language_model/chat_templates/qwen2.jinja, labels llava/utils/tokenizer.py:125-171; the new line
# after a medium comes from its views
QWEN2 = Prompt(
    system="You are a helpful assistant",
    system_turn="<|im_start|>system\n{system}<|im_end|>\n",
    user="<|im_start|>user\n{media}{text}<|im_end|>\n",
    header="<|im_start|>assistant\n",
    answer="{text}<|im_end|>",
    tail="\n",
    media=MEDIA,
    bos=False,
    stop=("<|im_end|>",),
)

FOLDS = {
    "mlp_downsample": DownsampleMlp(),
    "mlp_downsample_2x2_fix": DownsampleMlp(),
    "mlp_downsample_3x3_fix": DownsampleMlp(fold=3, hidden=(3,)),
    "mlp_downsample_3x3_s2": DownsampleMlp(fold=3, hidden=(3, 1, 1 / 3)),
    "mlp_downsample_3x3_s2_new": DownsampleMlp(fold=3, hidden=(4, 2, 1, 1 / 3)),
}
"""`mm_projector_type` (NVlabs/VILA@b760c34 llava/model/multimodal_projector/base_projector.py:137-220)."""
TOWERS: Mapping[str, type[Vit]] = {"siglip_vision_model": SigLip, "clip_vision_model": ClipVit}
LATER = ("dynamic_s2", "image_encoder", "video_encoder", "chat_template")
"""Keys of config.json that came with NVILA."""


def vila_release(system: System, config: Mapping[str, Any]) -> System:
    """One release; those of the first generation are one folder as LLaVA's are.

    Raises:
        SpecError: a tower, a projector or views that are not here.
    """
    if "llm" not in config:
        return llava_release(variant_of(system, config), config)
    later = any(config.get(key) for key in LATER)
    sized = variant_of(system, config, config["llm"])
    encoder = encoder_of(config)
    image = replace(
        sized.continuous("image"), encoder=encoder, connector=projector_of(config["mm_projector"], later),
        views=image_views(config, encoder, later),
    )  # fmt: skip
    return replace(
        sized,
        inputs={"image": image, "video": Shared(input="image", views=video_views(config, image, later))},
        backbone=backbone_of(sized.backbone, config["llm"]),
        layout=replace(sized.layout, rules=rules_for(image.connector, sized.layout.rules)),
        published_params={},
        variants={},
    )


def encoder_of(config: Mapping[str, Any]) -> Encoder:
    """The tower, at the scales of S2 where they are fixed; `patch` drops a first cell whatever it is."""
    own = config["vision_tower"]
    own = own.get("vision_config", own)
    family = TOWERS.get(own.get("model_type", "siglip_vision_model"))
    if family is None:
        raise SpecError(f"its tower is a {own['model_type']}; known are {', '.join(TOWERS)}")
    tower = family(**family.fields_of(own)).but(feature_layer=config.get("mm_vision_select_layer", -2))
    if (config.get("mm_vision_select_feature", "patch") == "patch") != family.class_token:
        tower = tower.but(drop_first=not family.class_token)
    return S2(inner=tower, sides=sides_of(config, tower.image)) if config.get("s2") else tower


def sides_of(config: Mapping[str, Any], image: int) -> tuple[int, ...]:
    """`s2_scales` in views a side."""
    scales = config["s2_scales"]
    return tuple(int(s) // image for s in (scales.split(",") if isinstance(scales, str) else scales))


def projector_of(projector: Mapping[str, Any], later: bool) -> Connector:
    """The projector; until NVILA the folded map came out column by column."""
    kind = projector.get("mm_projector_type")
    return FOLDS[kind].but(by_column=not later) if kind in FOLDS else connector_of(projector)


def image_views(config: Mapping[str, Any], encoder: Encoder, later: bool) -> Views:
    """`image_aspect_ratio`; NVILA writes a new line after every view."""
    ratio = config.get("image_aspect_ratio") or ("dynamic_s2" if config.get("dynamic_s2") else "resize")
    most = config.get("max_tiles", 12)
    if ratio == "dynamic_s2":
        return DynamicS2(sides=sides_of(config, encoder.size[0]), max_tiles=most, after="\n")
    if ratio == "dynamic":
        tiles = Tiles(min_tiles=config.get("min_tiles", 1), max_tiles=most, after=("\n", "\n"))
        return Among(alone=tiles, together=Frames(most=1, after="\n"))
    if ratio not in ("resize", "pad"):
        raise SpecError(f"image_aspect_ratio {ratio!r} is none of resize, pad, dynamic, dynamic_s2")
    fit: Any = "squash" if ratio == "resize" else "pad"
    return Frames(most=1, fit=fit, after="\n") if later else Fixed(fit=fit)


def video_views(config: Mapping[str, Any], image: Continuous, later: bool) -> Views:
    """Frames, or pooled groups of them where the configuration names a TSP encoder."""
    frames, coder = config.get("num_video_frames", 8), config.get("video_encoder") or {}
    coder = json.loads(coder) if isinstance(coder, str) else coder
    if not later:
        return Frames(most=frames, between="\n")
    if "pool_sizes" in coder:
        pools = tuple((t, h, w) for t, h, w in coder["pool_sizes"])
        return PooledFrames(frames=frames, pools=pools, after=coder.get("end_tokens", "\n"), copies=image.views.scales)
    return Frames(most=frames, rounding="nearest", repeat=True, after="\n", copies=image.views.scales)
