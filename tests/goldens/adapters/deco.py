"""DeCo: the connector, prompts and label masks of what it builds on."""

from __future__ import annotations

from typing import Any

from omniform import index
from omniform.batch import Features
from omniform.connectors.pooled_mlp import PooledMlp
from omniform.systems._conversations import PLAIN, VICUNA_V1

from ..golden import Golden
from . import _family, _texts

PROMPTS = {"v1": VICUNA_V1, "vicuna_v1": VICUNA_V1, "plain": PLAIN}


def run(golden: Golden) -> dict[str, Any]:
    if golden.data:
        return _texts.run(golden.data, "deco", PROMPTS)
    said, features = golden.config, golden.inputs["visual_feat"]
    side = round(features.shape[1] ** 0.5)
    part = PooledMlp(positions=said["query_num"], depth=said["layer_num"])
    sizes = {"in_dim": said["mm_hidden_size"], "out_dim": said["llm_hidden_size"]}
    return _family.connector(golden, index.system("deco"), part, sizes, Features(features, (side, side)))
