"""CogVLM2 whole, and its rules for position ids and for which positions pass the expert."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from omniform import index
from omniform.batch import Placed, Tree
from omniform.data.positions import position_ids
from omniform.fusion.visual_expert import VisualExpert
from omniform.geometry import Flat, Learned, Plan, Positions

from ..golden import Golden
from . import _cogvlm
from ._load import build


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        return whole(golden)
    return {
        f"cases/{i}/{k}": v for i, case in enumerate(golden.data["cases"]) for k, v in rules(case["pattern"]).items()
    }


def whole(golden: Golden) -> dict[str, Any]:
    config = golden.config["llm"]
    model = build(index.release("cogvlm2", config), golden.params)
    kinds = golden.inputs["token_type_ids"]
    each = [rules("".join("LV"[k] for k in row)) for row in kinds.tolist()]
    positions = torch.tensor([rule["position_ids"] for rule in each])
    first: list[Any] = []
    handle = model.backbone.layers[0].register_forward_hook(lambda layer, given, out: first.append(out))
    traced = _cogvlm.trace(model, golden, positions)
    handle.remove()
    return {
        "encoder_features_with_cls": _cogvlm.with_class(model, golden),
        "vision_output_with_boi_eoi": traced.rows,
        "hidden_after_layer0": first[0].unflatten(1, kinds.shape)[0],
        "logits": traced.logits,
        "position_ids": positions,
        "vision_expert_mask": torch.tensor([rule["vision_expert"] for rule in each]).bool(),
    }


def rules(pattern: str) -> dict[str, list[int]]:
    """Ids and experts of one row; of padding (P) the original's: after it words begin at one, before it the last id."""
    kept = pattern.strip("P")
    left, right = (len(side) for side in pattern.split(kept))
    spans = _cogvlm.runs(kept, "V")
    media = [(Plan((), (1, 1), signs(b - a)), np.arange(a, b)) for a, b in spans]
    ids, _ = position_ids(Positions(), len(kept), media)
    at = torch.cat([torch.arange(0), *(torch.arange(a, b) for a, b in spans)])
    placed = Placed(torch.zeros(len(at), 4), tuple(b - a for a, b in spans), at, at[:0], Tree.of([len(kept)]))
    expert = index.system("llava-1.5").shrunk("tiny").backbone.build()
    _, state = VisualExpert().build(backbone=expert, width=4)(torch.zeros(len(kept), 4), placed)
    passed = state.mask[0].int().tolist() if state else [0] * len(kept)
    moved = ids + 1 if left else ids
    return {
        "position_ids": [0] * left + moved.tolist() + [int(moved[-1])] * right,
        "vision_expert": [0] * left + passed + [0] * right,
    }


def signs(rows: int) -> tuple[Any, ...]:
    return Learned("boi"), Flat(0, rows - 2, still=True), Learned("eoi")
