"""GLM-4V whole, and what stands before its language model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from omniform import index
from omniform.data.positions import position_ids
from omniform.geometry import MediaSize
from omniform.systems import _cogvlm_release as family

from ..golden import Golden
from . import _cogvlm
from ._load import build, load

STREAM = "inputs.image."


def run(golden: Golden) -> dict[str, Any]:
    return whole(golden) if "llm" in golden.config else vision(golden)


def whole(golden: Golden) -> dict[str, Tensor]:
    model = build(index.release("glm-4v", golden.config["llm"]), golden.params)
    ids, start = golden.inputs["input_ids_expanded"], golden.inputs["images_idx"][:, 0]
    plan = model.system.plan("image", MediaSize(width=60, height=80))
    found = [
        position_ids(model.system.positions, ids.shape[1], [(plan, np.arange(at, at + plan.positions))])[0]
        for at in start.tolist()
    ]
    positions = torch.from_numpy(np.stack(found))
    if not torch.equal(positions, golden.inputs["position_ids"]):
        raise ValueError(f"position ids {positions.tolist()}, {golden.inputs['position_ids'].tolist()} in the golden")
    traced = _cogvlm.trace(model, golden, positions, ids, start)
    return {"vision_output": traced.rows, "logits": traced.logits}


def vision(golden: Golden) -> dict[str, Tensor]:
    """The parts of the input alone; the language model has a size that fits and no weights of the golden."""
    language = {
        "num_layers": 1, "padded_vocab_size": 8, "num_attention_heads": 4, "kv_channels": 8, "multi_query_group_num": 2,
    }  # fmt: skip
    model = index.release("glm-4v", {**language, **golden.config}).build().eval()
    stream = model.stream("image")
    rules = tuple((a, b.removeprefix(STREAM)) for a, b in family.vision_rules("transformer.vision."))
    load(stream, golden.params, rules, system=model.system)
    plan = model.system.plan("image", MediaSize(width=60, height=80))
    encoded = [stream.encoder(picture[None]) for picture in golden.inputs["images"]]
    folded = [stream.connector.folded(features) for features in encoded]
    return {
        "encoder_features_with_cls": _cogvlm.with_class(model, golden),
        "after_conv": torch.cat([features.values for features in folded]),
        "vision_output_with_boi_eoi": torch.stack([stream.rows([(one,)], (plan,)) for one in encoded]),
    }
