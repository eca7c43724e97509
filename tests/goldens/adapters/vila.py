"""VILA: whole models of VILA-1.5 and NVILA, connectors, pooled videos, stretched positions, geometry, pixels, texts.

Rows without a picture pass over none. NVILA writes a new line after each medium by itself; here it is one of the
plan's words, so the adapter puts it into the golden's ids before they are spread.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from omniform import index
from omniform.batch import Features
from omniform.geometry import MediaSize, Plan, Words
from omniform.parts import Sight
from omniform.prompt import Join
from omniform.spec import System
from omniform.systems import _vila
from omniform.systems._conversations import CHATML_DIRECT, PLAIN
from omniform.views.arrange_module import arrange
from omniform.views.dynamic_s2 import DynamicS2
from omniform.views.frames import Frames
from omniform.views.pooled_frames import PooledFrames
from omniform.views.tiles import best_grid, grid_views
from omniform.weights.positions import stretched

from ..golden import Golden
from . import _family, _llava, _preprocess, _texts
from ._load import build

# the original's templates take words as they are given, with the new line that its data code removes
AUTO = replace(_vila.QWEN2, user="<|im_start|>user\n{content}<|im_end|>\n", join=Join(lead="\n"))
PROMPTS = {
    "v1": _vila.VICUNA, "vicuna_v1": _vila.VICUNA, "llama_3": _vila.LLAMA_3_FIX, "llama_3_release": _vila.LLAMA_3,
    "hermes-2": CHATML_DIRECT, "auto": AUTO, "qwen2": AUTO, "plain": PLAIN,
}  # fmt: skip
NEW_LINE = "\n"


def run(golden: Golden) -> dict[str, Any]:
    if golden.data:
        return of_data(golden)
    if "position_embedding" in golden.inputs:
        new = golden.config["new_tokens"]
        return {"position_embedding_resized": stretched(golden.inputs["position_embedding"], new)}
    if "frame_features" in golden.inputs:
        return pooled(golden)
    return projector(golden) if "features" in golden.inputs else whole(golden)


def of_data(golden: Golden) -> dict[str, Any]:
    if "cases" not in golden.data:
        release = "1c88211" in golden.meta.get("source", "")
        own = {"llama_3": _vila.LLAMA_3} if release else {}
        found = _texts.run(golden.data, "vila", {**PROMPTS, **own})
        return found if release else {path: walked(found, path) for path in found}
    return geometry(golden.data) if "config" in golden.data else pixels(golden)


def walked(found: dict[str, Any], path: str) -> Any:
    """NVILA's mask: an id is learned unless it is the next id of what is not learned.

    So the first new line within an answer is left out, and the one behind the answer is learned instead.
    """
    if not path.endswith("labels"):
        return found[path]
    ids = found[path.removesuffix("labels") + "input_ids"]
    template = [i for i, label in zip(ids, found[path], strict=True) if label == _llava.IGNORED]
    labels = []
    for number in ids:
        same = bool(template) and number == template[0]
        labels.append(_llava.IGNORED if same else number)
        template = template[1:] if same else template
    return labels


# --- whole models ------------------------------------------------------------------------------------------------


def whole(golden: Golden) -> dict[str, Tensor]:
    system = index.release("vila", config(golden))
    model = build(system, golden.params)
    habits = _llava.Habits(
        placeholder=golden.config.get("image_token_id", -200), text_rows_take_one=False, plan=system_plan
    )
    if "block_sizes" not in golden.config:
        return _llava.results(golden, _llava.trace(golden, model, habits))
    grids = golden.config["block_sizes"]
    plans = [dynamic(system, grid) for grid in grids]
    seen = golden.inputs["images"].split([len(p.views) for p in plans])
    numbered = {f"pixel_values{i}": views for i, views in enumerate(seen)}
    written = replace(golden, inputs={**with_new_lines(golden), **numbered})
    order = iter(grids)
    traced = _llava.trace(written, model, replace(habits, plan=lambda s, size, views: dynamic(s, next(order))))
    rows = {
        f"connector{i}": arrange(f, replace(p, blocks=tuple(b for b in p.blocks if not isinstance(b, Words))), {})
        for i, (f, p) in enumerate(zip(traced.connected, plans, strict=True))
    }
    features = torch.cat([f.values for f in traced.encoded])
    return {**_llava.results(written, traced), **rows, "encoder_features": features}


def config(golden: Golden) -> dict[str, Any]:
    """The golden's configuration as the release's folders have it."""
    said = golden.config
    language = next(value for key, value in said.items() if key.startswith("llm"))
    biased = any(key.endswith("q_proj.bias") and key.startswith("llm/") for key in golden.params)
    vision = next(v for v in said.values() if isinstance(v, dict) and "patch_size" in v)
    later = {"dynamic_s2": True, "s2_scales": [vision["image_size"] * n for n in (1, 2, 3)]}
    return {
        # goldens on Qwen-2 were recorded with its real base of rotary frequencies and do not say so
        "llm": {"model_type": "qwen2", "rope_theta": 1e6, **language}
        if biased
        else {"model_type": "llama", **language},
        "vision_tower": vision,
        "mm_projector": {"mm_projector_type": said["projector"]},
        "mm_vision_select_feature": said["select_feature"],
        "mm_vision_select_layer": said["select_layer"],
        **(later if said.get("dynamic_s2") else {}),
    }


def system_plan(system: System, size: MediaSize, views: int) -> Plan:
    return system.plan("image", size)


def dynamic(system: System, grid: list[int] | None) -> Plan:
    """A picture whose last scale has (rows, columns) of tiles; without, one that is seen as it is."""
    entry: Any = system.continuous("image")
    side = entry.encoder.size[0]
    if grid is None:
        plain = Frames(most=1, copies=entry.views.scales, after=NEW_LINE)
        return plain.plan(MediaSize(width=side, height=side), entry.sight())
    rows, columns = grid
    return entry.views.plan(MediaSize(width=side * columns, height=side * rows), entry.sight())


def with_new_lines(golden: Golden) -> dict[str, Tensor]:
    """Ids, labels and mask with the new line behind every picture."""
    mark, line = golden.config["image_token_id"], golden.config["newline_token_id"]
    fills = {"input_ids": line, "labels": _llava.IGNORED, "attention_mask": 1}
    out = dict(golden.inputs)
    marked = golden.inputs["input_ids"] == mark
    for name, fill in fills.items():
        rows = [_behind(row, marks, fill) for row, marks in zip(golden.inputs[name], marked, strict=True)]
        out[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
    return out


def _behind(row: Tensor, marks: Tensor, fill: int) -> Tensor:
    """A row with a value behind every marked place."""
    parts = [part for value, mark in zip(row, marks, strict=True) for part in ([value, fill] if mark else [value])]
    return torch.tensor([int(p) for p in parts])


# --- components --------------------------------------------------------------------------------------------------


def projector(golden: Golden) -> dict[str, Tensor]:
    features = golden.inputs["features"]
    side = round(features.shape[1] ** 0.5)
    part = _vila.projector_of(golden.config, later="1c88211" not in golden.meta.get("source", ""))
    sizes = {"in_dim": golden.config["mm_hidden_size"], "out_dim": golden.config["hidden_size"]}
    return _family.connector(golden, index.system("vila"), part, sizes, Features(features, (side, side)))


def pooled(golden: Golden) -> dict[str, Tensor]:
    """Pooled frames with the words between them, whose embeddings the golden gives one by one."""
    features = golden.inputs["frame_features"]
    side = round(features.shape[1] ** 0.5)
    said = {key: golden.config.get(f"{name}_tokens") for key, name in (("before", "start"), ("between", "sep"))}
    views = PooledFrames(
        frames=len(features), pools=tuple(map(tuple, golden.config["pool_sizes"])),
        after=golden.config.get("end_tokens", NEW_LINE) or "", **{key: text or "" for key, text in said.items()},
    )  # fmt: skip
    sight = Sight(size=(side, side), mean_rgb=(0, 0, 0), cells=lambda size: (side, side))
    plan = views.plan(MediaSize(width=side, height=side, frames=len(features)), sight)
    words = next(iter(golden.params.values()))
    one = partial(arrange, Features(features, (side, side)), learned={})
    rows = [words if isinstance(b, Words) else one(replace(plan, blocks=(b,))) for b in plan.blocks]
    return {"video_tokens": torch.cat(rows)}


# --- geometry and pixels -----------------------------------------------------------------------------------------


def geometry(data: dict[str, Any]) -> dict[str, Any]:
    said = data["config"]
    tile = said["image_size"]
    sides = tuple(scale // tile for scale in said["s2_scales"])
    found: dict[str, Any] = {}
    for i, case in enumerate(data["cases"]):
        width, height = case["image_wh"]
        for name in case:
            if name == "dynamic_s2":
                last = best_grid((height, width), (tile, tile), sides[-1] ** 2, said["max_num"])
                blocks = sum(side**2 for side in sides[:-1]) + last[0] * last[1]
                told: dict[str, Any] = {"num_blocks": blocks, "last_scale_block_rows_cols": list(last)}
            elif name.startswith("dynamic_"):
                least, most = (int(n) for n in name.split("_")[1:])
                grid = best_grid((height, width), (tile, tile), least, most)
                count = len(grid_views(grid, (tile, tile)))
                told = {"num_tiles_with_thumbnail": count + (count > 1), "grid_cols_rows": [grid[1], grid[0]]}
            else:
                continue
            found |= {f"cases/{i}/{name}/{key}": value for key, value in told.items()}
    return found


def pixels(golden: Golden) -> dict[str, Any]:
    found = _family.pixels(golden, {"resize_384": 0})
    system = index.system("vila:nvila-8b")
    entry: Any = system.continuous("image")
    views: DynamicS2 = entry.views
    for path, picture, size, said in _preprocess.cases(golden.data):
        plan = views.plan(size, entry.sight())
        seen = _preprocess.normalised(picture, plan, entry.encoder)
        numbers = {"dynamic_s2_block0": 0, "dynamic_s2_block1": 1, "dynamic_s2_last_block": -1}
        for name, number in numbers.items():
            found |= _preprocess.compared(f"{path}/{name}", seen[number], said[name]) if name in said else {}
        if "dynamic_s2_block_rows_cols" in said:
            last = torch.tensor(plan.scales[-1].tiles)
            name = "dynamic_s2_block_rows_cols"
            found |= _preprocess.compared(f"{path}/{name}", last, said[name])
    return found
