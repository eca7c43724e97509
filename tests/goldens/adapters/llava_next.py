"""LLaVA-NeXT: whole models, geometry and pixels of tiles, prompts and label masks.

A picture that comes as one view has one learned row at its very end.
"""

from __future__ import annotations

from typing import Any

from omniform.geometry import MediaSize, Plan
from omniform.spec import System
from omniform.systems import llava_next
from omniform.systems._conversations import CHATML_DIRECT, PLAIN, QWEN_1_5, VICUNA_V1
from omniform.views.fixed import Fixed

from ..golden import Golden
from . import _family, _llava, _texts

PROMPTS = {
    "v1": VICUNA_V1, "vicuna_v1": VICUNA_V1, "mistral_instruct": llava_next.MISTRAL_INSTRUCT,
    "chatml_direct": CHATML_DIRECT, "mistral_direct": CHATML_DIRECT, "mpt": CHATML_DIRECT,
    "llava_llama_3": llava_next.LLAMA_3, "llama_3": llava_next.LLAMA_3, "llama_v3": llava_next.LLAMA_3,
    "llama3": llava_next.LLAMA_3, "qwen_1_5": QWEN_1_5, "qwen_2": QWEN_1_5, "qwen": QWEN_1_5,
    "llama_2": llava_next.MISTRAL_INSTRUCT, "plain": PLAIN,
}  # fmt: skip


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        return _family.whole(golden, _llava.Habits(plan=plan))
    if "config" in golden.data:
        return _family.any_res(golden)
    return _family.tiles(golden) if "cases" in golden.data else _texts.run(golden.data, "llava-next", PROMPTS)


def plan(system: System, size: MediaSize, views: int) -> Plan:
    if views > 1:
        return system.plan("image", size)
    return Fixed(fit="squash", newline="newline").plan(size, system.continuous("image").sight())
