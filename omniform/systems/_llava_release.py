"""The configuration that LLaVA and its descendants release: the language model's keys, and `mm_*` keys for the rest.

haotian-liu/LLaVA@c121f04 llava/model/llava_arch.py:29-126, llava/model/multimodal_projector/builder.py:33-51.
Each function takes a system's part and gives it as one release has it; a system whose release says more composes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from omniform.backbones.decoder import Decoder
from omniform.connectors.mlp import Mlp
from omniform.encoders.clip import ClipVit
from omniform.encoders.vit import Vit
from omniform.frozen import FrozenMap
from omniform.geometry import Hw, SpecError
from omniform.parts import Connector, Views
from omniform.spec import System
from omniform.views.any_res import AnyRes, grids_up_to
from omniform.views.fixed import Fixed

Config: TypeAlias = Mapping[str, Any]
NAMED_IN: Mapping[str, str] = FrozenMap({"inputs.image.encoder.": "mm_vision_tower"})
"""For `Layout.named_in`."""


def llava_release(
    system: System,
    config: Config,
    *,
    encoder: Vit | None = None,
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
    connector = connector or connector_of(image.connector, config)
    views = views or views_of(image.views, config, encoder)
    return replace(
        system,
        inputs={**system.inputs, "image": replace(image, encoder=encoder, connector=connector, views=views)},
        backbone=backbone_of(system.backbone, config),
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )


def backbone_of(backbone: Any, config: Config) -> Decoder:
    """The language model's sizes."""
    if "hidden_size" not in config:
        raise SpecError("it lacks hidden_size and the other sizes of the language model at its top level")
    return type(backbone).from_config(config, name=backbone.name)


def encoder_of(encoder: Any, config: Config) -> Vit:
    """The image encoder's sizes and the hidden state that is given."""
    own = config.get("vision_config")
    sized = encoder.but(**type(encoder).fields_of(own)) if own else encoder
    if isinstance(sized, ClipVit) and config.get("mm_vision_select_feature", "patch") != "patch":
        raise SpecError(f"mm_vision_select_feature {config['mm_vision_select_feature']!r} keeps the class token")
    return sized.but(feature_layer=config.get("mm_vision_select_layer", encoder.feature_layer))


def connector_of(connector: Connector, config: Config) -> Connector:
    """The depth of an MLP; other connectors are what their system says."""
    kind = config.get("mm_projector_type") or "linear"
    deep = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if isinstance(connector, Mlp) != bool(deep):
        raise SpecError(f"mm_projector_type {kind!r} is not this system's connector, {type(connector).__name__}")
    return connector.but(depth=int(deep[1])) if deep else connector


def views_of(views: Views, config: Config, encoder: Vit) -> Views:
    """How a picture becomes views: `image_aspect_ratio` and the grids of any-resolution."""
    ratio = config.get("image_aspect_ratio") or "square"
    if isinstance(views, Fixed) and ratio in ("pad", "square"):
        whole = "crop" if isinstance(encoder, ClipVit) else "squash"  # what the two families' processors do
        return views.but(fit="pad" if ratio == "pad" else whole)
    any_res = re.fullmatch(r"anyres(?:_max_(\d+))?", ratio)
    if isinstance(views, AnyRes) and any_res:
        limit = int(any_res[1]) if any_res[1] else None
        return views.but(grids=grids_of(config, encoder.image, views.grids), max_tiles=limit)
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
