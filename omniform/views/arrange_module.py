"""From connected features to the rows that the backbone reads: runs the blocks of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from omniform.batch import Features
from omniform.geometry import Block, Flat, Kept, Learned, Mean, Mosaic, Plan, Volume, Words


def arrange(
    features: Features, plan: Plan, learned: Mapping[str, Float[Tensor, " dim"]]
) -> Float[Tensor, "positions dim"]:
    """Rows of one medium in the order of its plan's blocks.

    Args:
        features: (views, cells, dim) of this medium's views, after the connector.
        learned: learned rows by name.

    Raises:
        ValueError: the features do not fill the plan.
    """
    rows = [RUN[type(block)](block, features, learned) for block in plan.blocks]
    out = rows[0] if len(rows) == 1 else torch.cat(rows)
    if len(out) != plan.positions:
        raise ValueError(f"planned positions: {plan.positions}, feature rows: {len(out)}; connector and plan disagree")
    return out


def _flat(block: Flat, features: Features, learned: Mapping[str, Tensor]) -> Tensor:
    return features.values[block.view]


def _kept(block: Kept, features: Features, learned: Mapping[str, Tensor]) -> Tensor:
    return features.values[block.view][list(block.cells)]


def _mosaic(block: Mosaic, features: Features, learned: Mapping[str, Tensor]) -> Tensor:
    (rows, cols), (height, width) = block.tiles, block.cell
    tiles = features.values[block.first : block.first + rows * cols].unflatten(1, (height, width))
    x = tiles.unflatten(0, (rows, cols)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    if block.crop:
        top, left, kept_height, kept_width = block.crop
        x = x[top : top + kept_height, left : left + kept_width]
    if block.resize:
        x = F.interpolate(x.permute(2, 0, 1)[None], size=block.resize, mode="bilinear")[0].permute(1, 2, 0)
    if block.newline:
        column = learned[block.newline].to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([x, column], dim=1)
    return x.flatten(0, 1)


def _mean(block: Mean, features: Features, learned: Mapping[str, Tensor]) -> Tensor:
    x = features.values[list(block.views)].mean(0)
    if block.pool == (1, 1):
        return x
    (height, width), (rows, cols) = block.cell, block.pool
    return x.view(height // rows, rows, width // cols, cols, -1).mean((1, 3)).flatten(0, 1)


def _volume(block: Volume, features: Features, learned: Mapping[str, Tensor]) -> Tensor:
    return features.values[block.first : block.first + block.frames].flatten(0, 1)


def _learned(block: Learned, features: Features, learned: Mapping[str, Tensor]) -> Tensor:
    return learned[block.name].to(features.values.dtype)[None]


def _words(block: Words, features: Features, learned: Mapping[str, Tensor]) -> Tensor:
    return features.values[:0, 0]


RUN: Mapping[type[Block], Callable[..., Tensor]] = {
    Flat: _flat, Kept: _kept, Mosaic: _mosaic, Mean: _mean, Volume: _volume, Learned: _learned, Words: _words,
}  # fmt: skip


def merged_views(features: Features, plan: Plan) -> Features:
    """Features of one medium as the connector sees them: scales joined on channels, or all views averaged."""
    if plan.scales:
        return merge_scales(features, plan)
    return Features(features.values.mean(0, keepdim=True), features.grid) if plan.averaged else features


def chosen(features: Features, plan: Plan) -> Features:
    """Features that know which of their cells a plan keeps; all of them where it was made without looking."""
    kept = torch.zeros(features.values.shape[:2], dtype=torch.bool, device=features.values.device)
    for block in plan.blocks:
        if isinstance(block, Kept):
            kept[block.view, list(block.cells)] = True
        elif isinstance(block, Flat):
            kept[block.view] = True
    return replace(features, kept=kept)


def merge_scales(features: Features, plan: Plan) -> Features:
    """Views of one picture at several scales -> one set of views at the last scale, joined on channels.

    Each scale's views are laid out as a map, resampled by area to the map of the last scale, joined, and cut into the
    last scale's views again (NVILA, arXiv:2412.04468 section 2.1.1).
    """
    height, width = features.grid
    rows, cols = plan.scales[-1].tiles
    target = rows * height, cols * width
    maps = []
    for scale in plan.scales:
        mosaic = Mosaic(scale.first, scale.tiles, (height, width))
        x = _mosaic(mosaic, features, {}).unflatten(0, mosaic.size).permute(2, 0, 1)[None]
        maps.append(F.interpolate(x.float(), size=target, mode="area").to(x.dtype) if mosaic.size != target else x)
    joined = torch.cat(maps, dim=1)[0].unflatten(1, (rows, height)).unflatten(3, (cols, width))
    return Features(joined.permute(1, 3, 2, 4, 0).flatten(2, 3).flatten(0, 1), features.grid)
