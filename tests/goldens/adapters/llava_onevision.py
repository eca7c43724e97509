"""LLaVA-OneVision: whole models that see tiles, several pictures or a video, geometry, pixels, prompts, label masks."""

from __future__ import annotations

from typing import Any

from omniform.geometry import MediaSize, Plan
from omniform.spec import System

from ..golden import Golden
from . import _family, _llava, _texts, llava_next

PROMPTS = {**llava_next.PROMPTS}


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        video = "video" in golden.config.get("modalities", ())
        return _family.whole(
            golden, _llava.Habits(modality="video", plan=frames) if video else _llava.Habits(plan=plan)
        )
    if "config" in golden.data:
        return _family.any_res(golden)
    return _family.tiles(golden) if "cases" in golden.data else _texts.run(golden.data, "llava-onevision", PROMPTS)


def plan(system: System, size: MediaSize, views: int) -> Plan:
    """One view is one of several pictures."""
    entry = system.continuous("image")
    return entry.views.among(2 if views == 1 else 1).plan(size, entry.sight())


def frames(system: System, size: MediaSize, views: int) -> Plan:
    """All frames that the golden gives."""
    entry: Any = system.continuous("video")
    shown = MediaSize(width=size.width, height=size.height, frames=views)
    return entry.views.but(most=views, per_second=None).plan(shown, entry.sight())
