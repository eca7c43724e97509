"""The configuration that LLaVA and its descendants release: the language model's keys, and `mm_*` keys for the rest.

haotian-liu/LLaVA@c121f04 llava/model/llava_arch.py:29-126, llava/model/multimodal_projector/builder.py:33-51.
Each function takes a system's part and gives it as one release has it; a system whose release says more composes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeAlias

from omniform.backbones.decoder import Decoder
from omniform.connectors.linear import Linear
from omniform.connectors.mlp import Mlp
from omniform.connectors.normed_mlp import NormedMlp
from omniform.encoders.clip import ClipVit
from omniform.encoders.vit import Vit
from omniform.frozen import FrozenMap
from omniform.geometry import Hw, SpecError
from omniform.parts import Connector, Encoder, Rules, Views
from omniform.spec import System
from omniform.views.any_res import AnyRes, grids_up_to
from omniform.views.fixed import Fixed

Config: TypeAlias = Mapping[str, Any]
NAMED_IN: Mapping[str, str] = FrozenMap({"inputs.image.encoder.": "mm_vision_tower"})
"""For `Layout.named_in`."""
CONNECTOR = "inputs.image.connector."
LINEAR_RULES: Rules = (
    ("model.vision_tower.vision_tower.", "inputs.image.encoder."),
    ("model.mm_projector.", CONNECTOR + "layer."),
    ("model.image_newline", "inputs.image.learned.newline"),
    ("", "backbone.lm."),
)
"""Key rules of the family, for a connector of one linear layer."""
MLP_RULES: Rules = tuple((a, b.replace("layer.", "layers.")) for a, b in LINEAR_RULES)
ROTARY = ("rope_theta", "rope_scaling", "rotary")
COMPARED = ("dim", "layers", "heads", "kv_heads", "mlp_dim", "vocab")
"""Sizes by which a configuration is told from the other released sizes."""


def variant_of(system: System, config: Config, language: Config | None = None) -> System:
    """The released size, base or variant, that a configuration fits best; of equally good ones the first.

    The name of the architecture goes before the family of the language model, that before sizes.

    Args:
        language: the language model's configuration, where it is not at the top level.
    """
    sizes = [system, *(system.variant(name) for name in system.variants)]
    language = config if language is None else language
    said = set(config.get("architectures") or ())

    def fit(size: System) -> tuple[bool, bool, int]:
        backbone: Any = size.backbone
        named = bool(said & set(size.layout.architectures))
        return named, backbone.model_type == language.get("model_type"), _shared(backbone, language)

    return max(sizes, key=fit)


def _shared(backbone: Any, config: Config) -> int:
    """How many sizes a backbone and a configuration have in common."""
    keys = {field: backbone.keys.get(field) for field in COMPARED}
    return sum(key in config and config[key] == getattr(backbone, field) for field, key in keys.items())


def llava_release(
    system: System,
    config: Config,
    *,
    encoder: Encoder | None = None,
    connector: Connector | None = None,
    views: Views | None = None,
) -> System:
    """A LLaVA-like system as one of its releases has it.

    Args:
        config: config.json; "vision_config" (when given) sizes the encoder, else the system's own stays.
        encoder, connector, views: what this system's releases say in other words than LLaVA's.

    Raises:
        SpecError: the configuration is not one of this system.
    """
    image = system.continuous("image")
    encoder = encoder or encoder_of(image.encoder, config)
    connector = connector or connector_of(config)
    views = views or views_of(image.views, config, encoder)
    return replace(
        system,
        inputs={**system.inputs, "image": replace(image, encoder=encoder, connector=connector, views=views)},
        backbone=backbone_of(system.backbone, config),
        layout=replace(system.layout, rules=rules_for(connector, system.layout.rules)),
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )


def backbone_of(backbone: Any, config: Config) -> Decoder:
    """The language model's sizes; what no configuration tells stays as the system has it.

    Raises:
        SpecError: the configuration holds no sizes.
    """
    if backbone.keys["dim"] not in config:
        raise SpecError(f"it lacks {backbone.keys['dim']} and the other sizes of the language model at its top level")
    said = type(backbone).fields_of(config)
    told = {*said, *backbone.keys, *ROTARY}
    return type(backbone)(**said, **{f.name: getattr(backbone, f.name) for f in fields(backbone) if f.name not in told})


def encoder_of(encoder: Any, config: Config) -> Vit:
    """The image encoder's sizes and the hidden state that is given."""
    own = config.get("vision_config")
    sized = encoder.but(**type(encoder).fields_of(own)) if own else encoder
    if isinstance(sized, ClipVit) and config.get("mm_vision_select_feature", "patch") != "patch":
        raise SpecError(f"mm_vision_select_feature {config['mm_vision_select_feature']!r} keeps the class token")
    return sized.but(feature_layer=config.get("mm_vision_select_layer", encoder.feature_layer))


def connector_of(config: Config) -> Connector:
    """The projector that a configuration names; without a name it is one linear layer."""
    kind = config.get("mm_projector_type") or "linear"
    deep = re.fullmatch(r"mlp(\d+)x_gelu(_Norm)?", kind)
    if deep:
        return (NormedMlp if deep[2] else Mlp)(depth=int(deep[1]))
    if kind != "linear":
        raise SpecError(f"mm_projector_type {kind!r} is none of linear, mlp2x_gelu, mlp3x_gelu ..., mlp2x_gelu_Norm")
    return Linear()


def rules_for(connector: Connector, rules: Rules) -> Rules:
    """Key rules with the projector's own name for its layers."""
    layers = "layer." if isinstance(connector, Linear) else "layers."
    return tuple((a, CONNECTOR + layers if b.startswith(CONNECTOR) else b) for a, b in rules)


def views_of(views: Views, config: Config, encoder: Encoder) -> Views:
    """How a picture becomes views: `image_aspect_ratio` and the grids of any-resolution."""
    ratio = config.get("image_aspect_ratio") or "square"
    if isinstance(views, Fixed) and ratio in ("pad", "square"):
        whole = "crop" if isinstance(encoder, ClipVit) else "squash"  # what the two families' processors do
        return views.but(fit="pad" if ratio == "pad" else whole)
    any_res = re.fullmatch(r"anyres(?:_max_(\d+))?", ratio)
    if isinstance(views, AnyRes) and any_res:
        limit = int(any_res[1]) if any_res[1] else None
        return views.but(grids=grids_of(config, encoder.size[0], views.grids), max_tiles=limit)
    raise SpecError(f"image_aspect_ratio {ratio!r} is not among this system's views, {type(views).__name__}")


def grids_of(config: Config, tile: int, default: tuple[Hw, ...]) -> tuple[Hw, ...]:
    """`image_grid_pinpoints`, (width, height) in pixels, as (rows, columns) of tiles.

    They may be a list, a list written as a string, or a range "(1x1),...,(6x6)" of tiles
    (LLaVA-VL/LLaVA-NeXT@df17966 llava/mm_utils.py:225-238).
    """
    points = config.get("image_grid_pinpoints") or ()
    if not points:
        return default
    if isinstance(points, str):
        span = re.findall(r"\((\d+)x(\d+)\)", points)
        if span:
            columns, rows = (int(side) for side in span[-1])
            return grids_up_to(rows, columns)
        points = json.loads(points.replace("(", "[").replace(")", "]"))
    for width, height in points:
        if width % tile or height % tile:
            raise SpecError(f"image_grid_pinpoints {[width, height]} is not made of tiles of {tile} pixels")
    return tuple((height // tile, width // tile) for width, height in points)
