"""Qwen2-VL: sizes of pictures, and position ids under both rules for what follows a medium."""

from __future__ import annotations

from typing import Any

import numpy as np

from omniform import index
from omniform.data.positions import position_ids
from omniform.geometry import MediaSize, Plan, Positions, SpecError, Volume
from omniform.spec import System
from omniform.views.native import LONGEST, Native

from ..golden import Golden

TYPES = "token_type (0 text,1 image,2 video)"
NAMES = {0: "", 1: "image", 2: "video", "I": "image", "V": "video"}
"""How goldens mark a row of a medium."""


def run(golden: Golden) -> dict[str, Any]:
    system = index.system(golden.slug)
    found: dict[str, Any] = {}
    for i, case in enumerate(golden.data["cases"]):
        told = sizes(system, case) if "image_wh" in case else positions(system, case)
        found |= {f"cases/{i}/{name}": value for name, value in told.items() if name in case}
    return found


def sizes(system: System, case: dict[str, Any]) -> dict[str, Any]:
    sight = system.continuous("image").sight()
    views = Native(min_pixels=case["min_pixels"], max_pixels=case["max_pixels"])
    width, height = case["image_wh"]
    try:
        plan = views.plan(MediaSize(width=width, height=height), sight)
    except SpecError:
        ratio = max(width, height) / min(width, height)
        return {"error": f"absolute aspect ratio must be smaller than {LONGEST}, got {ratio}"}
    patch: int = system.parts()["image.encoder"].patch  # type: ignore[attr-defined]
    return {
        "resized_hw": list(plan.size),
        "grid_thw": [len(plan.views) // sight.together, plan.size[0] // patch, plan.size[1] // patch],
        "llm_tokens": plan.positions,
    }


def positions(system: System, case: dict[str, Any]) -> dict[str, Any]:
    """Ids of a padded batch, and what decoding adds to lengths.

    The first release (rows written as letters) fills padding with 1 and counts it in the difference; later ones (rows
    written as types) fill it with 0, leave it out, and go on behind the larger side of a frame.
    """
    first = "pattern" in case
    rule = system.positions if first else Positions(media="map", after="side")
    grids = {name: iter(case[f"{name}_grid_thw"] or ()) for name in ("image", "video")}
    fold: int = system.parts()["image.connector"].fold  # type: ignore[attr-defined]
    rows, deltas = [], []
    for number, row in enumerate(case["pattern"] if first else case[TYPES]):
        mask = np.array(case["attention_mask"][number] if case["attention_mask"] else [1] * len(row), dtype=bool)
        kept = [NAMES.get(mark, "") for mark, keep in zip(row, mask, strict=True) if keep]
        ids, after = position_ids(rule, len(kept), media(kept, grids, fold))
        whole = np.full((rule.axes, len(row)), int(first), dtype=np.int64)
        whole[:, mask] = ids
        rows.append(whole)
        deltas.append(after - len(row if first else kept))
    return {"position_ids_thw_b_s": np.stack(rows, 1).tolist(), "rope_deltas": deltas}


def media(kept: list[str], grids: dict[str, Any], fold: int) -> list[tuple[Plan, Any]]:
    """Plan and places of each medium of a row."""
    found, at = [], 0
    while at < len(kept):
        if not kept[at]:
            at += 1
            continue
        frames, height, width = next(grids[kept[at]])
        block = Volume(0, frames, (height // fold, width // fold))
        found.append((Plan(views=(), size=(1, 1), blocks=(block,)), np.arange(at, at + block.positions)))
        at += block.positions
    return found
