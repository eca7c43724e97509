"""LLaVA-NeXT: whole models, geometry and pixels of tiles, prompts and label masks.

A picture that comes as one view has one learned row at its very end.
"""

from __future__ import annotations

from typing import Any

from omniform.geometry import MediaSize, Plan
from omniform.spec import System
from omniform.systems import llava_next
from omniform.systems._conversations import CHATML_DIRECT, QWEN_1_5
from omniform.views.fixed import Fixed

from ..golden import Golden
from . import _family, _llava, _texts, llava

PROMPTS = {
    **llava.PROMPTS, "llava_llama_3": llava_next.LLAMA_3, "llama_3": llava_next.LLAMA_3, "llama_v3": llava_next.LLAMA_3,
    "llama3": llava_next.LLAMA_3, "qwen_1_5": QWEN_1_5, "qwen_2": QWEN_1_5, "qwen": QWEN_1_5,
}  # fmt: skip
LEARNED = {**PROMPTS, "mpt": CHATML_DIRECT, "llama_2": llava_next.MISTRAL_INSTRUCT}
"""The original's names of label masks -> the template that releases use with each."""


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        return _family.whole(golden, _llava.Habits(plan=plan))
    if "config" in golden.data:
        return _family.any_res(golden)
    names = LEARNED if "toy_vocab" in golden.data else PROMPTS
    return _family.tiles(golden) if "cases" in golden.data else _texts.run(golden.data, "llava-next", names)


def plan(system: System, size: MediaSize, views: int) -> Plan:
    if views > 1:
        return system.plan("image", size)
    return Fixed(fit="squash", newline="newline").plan(size, system.continuous("image").sight())
