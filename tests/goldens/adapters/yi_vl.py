"""Yi-VL: whole models, pixels, prompts.

The original keeps padding inside when it inserts pictures, which moves nothing in rows that are padded on the right.
"""

from __future__ import annotations

from typing import Any

from omniform.systems._conversations import PLAIN
from omniform.systems.yi_vl import MM_DEFAULT

from ..golden import Golden
from . import _family, _texts

PROMPTS = {"mm_default": MM_DEFAULT, "default": MM_DEFAULT, "plain": PLAIN}


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        return _family.whole(golden)
    if "cases" in golden.data:
        return _family.pixels(golden, {"pixel_values": 0})
    mark = "<image_placeholder>" if "<image_placeholder>" in str(golden.data) else _texts.MARK
    return _texts.run(golden.data, "yi-vl", PROMPTS, mark)
