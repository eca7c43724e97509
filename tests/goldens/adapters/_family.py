"""What the adapters of LLaVA's descendants share: configurations, geometry of tiles, pixels, single connectors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from omniform import index
from omniform.batch import Features
from omniform.geometry import MediaSize, Mosaic, Pad, Plan
from omniform.parts import Connector
from omniform.spec import System

from ..golden import Golden
from . import _llava, _preprocess
from ._load import build, load

CONNECTOR = "inputs.image.connector."


def architecture(golden: Golden) -> dict[str, list[str]]:
    """The class that a golden was recorded from, as config.json names it."""
    named = re.search(r"::(\w+)\s*$", golden.meta.get("source", ""))
    return {"architectures": [named[1]]} if named else {}


def whole(golden: Golden, habits: _llava.Habits | None = None) -> dict[str, Tensor]:
    """A whole model, sized by the golden's configuration."""
    habits = habits or _llava.Habits()
    system = index.release(golden.slug, {**_llava.config_of(golden), **architecture(golden)})
    return _llava.results(golden, _llava.trace(golden, build(system, golden.params, habits.separate), habits))


def connector(
    golden: Golden, system: System, part: Connector, sizes: Mapping[str, Any], *features: Features
) -> dict[str, Tensor]:
    """One connector alone, its weights through the system's layout."""
    rules = tuple((a, b.removeprefix(CONNECTOR)) for a, b in system.layout.rules if b.startswith(CONNECTOR))
    if system.layout.folders:
        rules = tuple((a.partition("/")[2], b) for a, b in rules)
    module = part.build(**sizes)
    load(module, golden.params, rules)
    return {"connector": module(*features).values}


# --- geometry and pixels -----------------------------------------------------------------------------------------


def any_res(golden: Golden) -> dict[str, Any]:
    """Canvases and token counts of any-resolution pictures."""
    found: dict[str, Any] = {}
    for i, case in enumerate(golden.data["cases"]):
        width, height = case["image_wh"]
        plan = index.system(golden.slug).plan("image", MediaSize(width=width, height=height))
        told = {f"cases/{i}/{key}": value for key, value in _told(plan).items() if key in case}
        found |= told
    return found


def _told(plan: Plan) -> dict[str, Any]:
    base, mosaic = plan.blocks
    assert isinstance(mosaic, Mosaic)
    _, pad, _ = plan.views[1].steps
    assert isinstance(pad, Pad)
    inner = plan.views[1].steps[0].size
    rows, columns = mosaic.tiles
    (top, left), (height, width) = pad.offset, pad.size
    return {
        "best_resolution_wh": [width, height],
        "content_box_xyxy_in_padded": [left, top, left + inner[1], top + inner[0]],
        "grid_wh": [columns, rows],
        "num_tiles_incl_base": len(plan.views),
        "base_tokens": base.positions,
        "newline_tokens": mosaic.size[0],
        "hires_feature_hw": list(mosaic.size),
        "total_tokens": plan.positions,
    }


def pictures(golden: Golden, system: System | None = None) -> dict[str, Any]:
    """Positions and pixels of pictures that become views of one size, whatever the golden calls them."""
    system = system or index.system(golden.slug)
    encoder = system.continuous("image").encoder
    found: dict[str, Any] = {}
    for path, picture, size, said in _preprocess.cases(golden.data):
        plan = system.plan("image", size)
        found |= _preprocess.told(path, said, plan, _preprocess.normalised(picture, plan, encoder))
    return found


def tiles(golden: Golden) -> dict[str, Any]:
    """Pixels of the overview and of the first and last tile."""
    return pixels(golden, {"tile0": 0, "tile1": 1, "tile_last": -1})


def pixels(golden: Golden, views: Mapping[str, int], system: System | None = None) -> dict[str, Any]:
    """Pixels of chosen views: the golden's name -> number of the view."""
    system = system or index.system(golden.slug)
    encoder = system.continuous("image").encoder
    found: dict[str, Any] = {}
    for path, picture, size, said in _preprocess.cases(golden.data):
        seen = _preprocess.normalised(picture, system.plan("image", size), encoder)
        for name, number in views.items():
            found |= _preprocess.compared(f"{path}/{name}", seen[number], said[name]) if name in said else {}
    return found
