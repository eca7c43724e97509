"""Plans: the originals' numbers, and as many rows as promised, for every strategy and any size."""

from __future__ import annotations

import json
import random
from math import prod
from pathlib import Path

import examples
import numpy as np
import pytest
import torch

from omniform import index
from omniform.batch import Features
from omniform.geometry import (
    Crop,
    Flat,
    Learned,
    Mean,
    MediaSize,
    Mosaic,
    Pad,
    Plan,
    Resize,
    Scale,
    SpecError,
    Step,
    Words,
)
from omniform.parts import Sight, Views
from omniform.views.among import Among
from omniform.views.any_res import AnyRes, grids_up_to, unpadded
from omniform.views.arrange_module import arrange, merge_scales, merged_views
from omniform.views.dynamic_s2 import DynamicS2
from omniform.views.fixed import Fixed
from omniform.views.frames import Frames, frame_numbers, spread
from omniform.views.pooled_frames import PooledFrames
from omniform.views.tiles import Tiles, best_grid, candidates

GOLDENS = Path(__file__).parent / "goldens"
SIZES = [
    (50, 3000),
    (3000, 50),
    (1, 1),
    (1, 900),
    (900, 1),
    (7, 5),
    (24, 24),
    (48, 24),
    (25, 23),
    (1200, 300),
    (640, 427),
]
SIZES += [(random.Random(i).randint(1, 500), random.Random(-i - 1).randint(1, 500)) for i in range(24)]


def sight(side: int = 24, cells: tuple[int, ...] = (4, 4)) -> Sight:
    return Sight(size=(side, side), mean_rgb=(1, 2, 3), cells=lambda size: cells)


def media(width: int, height: int, frames: int = 1, fps: float | None = None) -> MediaSize:
    return MediaSize(width=width, height=height, frames=frames, fps=fps)


def cases(slug: str) -> list[dict]:
    return json.loads((GOLDENS / f"{slug}__geometry.json").read_text(encoding="utf-8"))["cases"]


# --- contract ----------------------------------------------------------------------------------------------------


def sized(hw: tuple[int, int], steps: tuple[Step, ...]) -> tuple[int, int]:
    """(height, width) after the steps; each step must have something to work on."""
    for step in steps:
        if isinstance(step, Resize):
            hw = step.size
        elif isinstance(step, Pad):
            assert all(o >= 0 and o + s <= c for o, s, c in zip(step.offset, hw, step.size, strict=True))
            hw = step.size
        else:
            assert isinstance(step, Crop)
            assert all(o >= 0 and o + c <= s for o, c, s in zip(step.offset, step.size, hw, strict=True))
            hw = step.size
        assert min(hw) >= 1
    return hw


every_example = pytest.mark.parametrize("strategy", examples.VIEWS, ids=str)


@pytest.mark.parametrize("name", index.declarations("views"))
def test_every_strategy_has_an_example(name: str) -> None:
    known = (*examples.VIEWS, *examples.SOUND_VIEWS, *examples.FREE_VIEWS)
    assert name in {type(strategy).__name__ for strategy in known}


@every_example
def test_every_view_has_the_planned_size_and_every_position_is_filled(strategy: Views) -> None:
    learned = {name: torch.randn(5) for name in strategy.learned}
    for number, (width, height) in enumerate(SIZES):
        medium = media(width, height, frames=1 + number, fps=(None, 0.5, 24.0)[number % 3])
        plan = strategy.plan(medium, sight())
        assert plan.size == (24, 24)
        assert all(sized((height, width), view.steps) == plan.size for view in plan.views)
        assert all(0 <= view.frame < medium.frames for view in plan.views)
        assert len(plan.scales) == (strategy.scales if strategy.scales > 1 else 0)
        features = Features(torch.randn(len(plan.views), 16, 5 // max(1, len(plan.scales))), (4, 4))
        features = merged_views(features, plan)
        if plan.scales:
            features = Features(features.values.repeat(1, 1, 5)[..., :5], (4, 4))
        rows = arrange(features, plan, learned)
        assert rows.shape == (plan.positions, 5)
        assert rows.isfinite().all()
        assert strategy.plan(medium, sight()) == plan


@every_example
def test_shrinking_keeps_a_strategy_plannable(strategy: Views) -> None:
    for size in ("tiny", "nano"):
        small = strategy.shrunk(size).rescaled(336, 64)
        assert small.plan(media(100, 40, frames=5), sight(64, (8, 8))).positions > 0
        assert small.learned == strategy.learned


@every_example
def test_alone_a_medium_is_planned_as_by_default(strategy: Views) -> None:
    assert strategy.among(1).plan(media(70, 30), sight()) == strategy.plan(media(70, 30), sight())


# --- numbers of the originals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "strategy", "side", "cell"),
    [
        ("llava-next", AnyRes(grids=examples.NEXT_GRIDS), 336, 24),
        ("llava-onevision", AnyRes(grids=grids_up_to(6, 6), max_tiles=9), 384, 27),
    ],
)
def test_any_res_gives_the_original_geometry(slug: str, strategy: AnyRes, side: int, cell: int) -> None:
    wanted = cases(slug)
    assert len(wanted) == 36
    for case in wanted:
        plan = strategy.plan(media(*case["image_wh"]), sight(side, (cell, cell)))
        base, mosaic = plan.blocks
        resize, pad = plan.views[1].steps[:2]
        assert isinstance(base, Flat) and isinstance(mosaic, Mosaic)
        assert isinstance(resize, Resize) and isinstance(pad, Pad)
        (top, left), (rows, cols) = pad.offset, mosaic.tiles
        assert case == {
            "image_wh": case["image_wh"],
            "best_resolution_wh": [cols * side, rows * side],
            "content_box_xyxy_in_padded": [left, top, left + resize.size[1], top + resize.size[0]],
            "grid_wh": [cols, rows],
            "num_tiles_incl_base": len(plan.views),
            "base_tokens": base.positions,
            "newline_tokens": mosaic.size[0],
            "hires_feature_hw": list(mosaic.size),
            "total_tokens": plan.positions,
        }


def test_tiles_and_scales_give_the_original_geometry() -> None:
    wanted, near = cases("vila"), sight(448, (16, 16))
    assert len(wanted) == 30
    for case in wanted:
        size = media(*case["image_wh"])
        scaled = DynamicS2().plan(size, near)
        got: dict[str, object] = {
            "dynamic_s2": {
                "num_blocks": len(scaled.views),
                "last_scale_block_rows_cols": list(scaled.scales[-1].tiles),
            }
        }
        for most in (12, 6):
            rows, cols = best_grid(size.hw, near.size, 1, most)
            views = Tiles(max_tiles=most).plan(size, near).views
            got[f"dynamic_1_{most}"] = {"num_tiles_with_thumbnail": len(views), "grid_cols_rows": [cols, rows]}
        assert case == {"image_wh": case["image_wh"], **got}


def test_candidates_stand_in_the_order_of_the_originals_set() -> None:
    assert candidates(9, 12) == (
        (3, 3), (1, 9), (9, 1), (1, 10), (10, 1), (5, 2), (2, 5), (1, 11), (11, 1), (12, 1), (2, 6), (1, 12), (4, 3),
        (3, 4), (6, 2),
    )  # fmt: skip
    assert candidates(2, 6) == (
        (2, 1), (1, 2), (1, 3), (3, 1), (1, 4), (4, 1), (2, 2), (5, 1), (1, 5), (1, 6), (3, 2), (6, 1), (2, 3),
    )  # fmt: skip
    assert len(candidates(1, 12)) == 35
    assert len(candidates(1, 40)) == 158


def test_equally_close_grids_are_decided_by_the_pictures_size() -> None:
    small, large = (best_grid((h, w), (448, 448), 2, 2) for h, w in ((200, 250), (2000, 2500)))
    first, second = candidates(2, 2)
    assert {first, second} == {(1, 2), (2, 1)}
    assert (small, large) == (first, second)


# --- any resolution ----------------------------------------------------------------------------------------------


def test_half_of_an_odd_difference_stays() -> None:
    assert unpadded((100, 320), (9, 27)) == (0, 0, 9, 27)
    assert unpadded((100, 500), (27, 27)) == (11, 0, 5, 27)
    assert unpadded((500, 100), (27, 27)) == (0, 11, 27, 5)
    assert unpadded((480, 640), (48, 48)) == (6, 0, 36, 48)


def test_a_thin_picture_may_leave_no_map_rows_but_keeps_its_overview() -> None:
    plan = AnyRes(grids=((1, 1),)).plan(media(3000, 50), sight(336, (24, 24)))
    assert [block.positions for block in plan.blocks] == [576, 0]
    tall = AnyRes(grids=((1, 1),)).plan(media(50, 3000), sight(336, (24, 24)))
    assert [block.positions for block in tall.blocks] == [576, 24]


def test_maps_are_shrunk_only_beyond_ten_percent() -> None:
    strategy, near = AnyRes(grids=grids_up_to(6, 6), max_tiles=4), sight(10, (5, 5))
    small, large = (strategy.plan(media(*wh), near).blocks[1] for wh in ((20, 20), (43, 26)))
    assert isinstance(small, Mosaic) and isinstance(large, Mosaic)
    assert (small.resize, small.size) == (None, (10, 10))
    assert (large.tiles, large.crop, large.resize) == ((3, 5), (0, 0, 15, 25), (7, 12))


def test_grids_follow_the_written_range() -> None:
    assert grids_up_to(2, 3) == ((1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (2, 3))
    assert len(grids_up_to(6, 6)) == 36


def test_layouts_refuse_a_connector_without_a_map() -> None:
    flat = sight(24, (16,))
    pooled = PooledFrames(frames=2, pools=((1, 1, 1),))
    for strategy in (AnyRes(grids=((1, 1),)), DynamicS2(), Frames(most=2, pool=2), pooled):
        with pytest.raises(SpecError, match="16 positions without a map"):
            strategy.plan(media(30, 30), flat)
    assert Tiles(max_tiles=2).plan(media(30, 30), flat).positions == 16


def test_several_media_get_the_strategy_for_several() -> None:
    strategy = Among(alone=AnyRes(grids=((2, 2),)), together=Fixed(fit="pad", newline="newline"))
    plan = strategy.among(2).plan(media(30, 20), sight())
    assert plan.blocks == (Flat(0, 16), Learned("newline"))
    assert plan.positions == 17
    assert strategy.among(1) is strategy.alone
    assert strategy.learned == ("newline",)


# --- scales ------------------------------------------------------------------------------------------------------


def test_scales_are_joined_at_the_last_grid_tile_by_tile() -> None:
    plan = DynamicS2(sides=(1, 2), max_tiles=6).plan(media(300, 200), sight(24, (2, 2)))
    assert plan.scales == (Scale(0, (1, 1)), Scale(1, (2, 3)))
    values = torch.arange(7.0)[:, None, None] * 10 + torch.arange(4.0)[None, :, None]
    joined = merge_scales(Features(values, (2, 2)), plan)
    assert joined.values.shape == (6, 4, 2)
    assert torch.equal(joined.values[..., 1:], values[1:])
    # the first scale's map is one 2x2 tile; area resampling to 4x6 repeats its cells
    low = joined.values[..., 0].view(2, 3, 2, 2).transpose(1, 2).flatten(2).flatten(0, 1)
    assert low.tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2


def test_copies_repeat_features_on_channels() -> None:
    plan = Frames(most=3, copies=3).plan(media(30, 20, frames=3), sight())
    features = Features(torch.randn(3, 16, 5), (4, 4))
    assert torch.equal(merge_scales(features, plan).values, features.values.repeat(1, 1, 3))


def test_strategies_of_unequal_scales_do_not_share_a_connector() -> None:
    with pytest.raises(SpecError, match="joins 3 scales on channels and Fixed 1"):
        Among(alone=DynamicS2(), together=Fixed(fit="squash"))
    Among(alone=DynamicS2(), together=Fixed(fit="squash", copies=3))


# --- video -------------------------------------------------------------------------------------------------------


def test_spread_frames_are_numpys() -> None:
    for total in range(1, 90, 4):
        for number in (1, 2, 3, 8, 32, 33):
            even = np.linspace(0, total - 1, number)
            assert spread(total, number, "down") == tuple(np.linspace(0, total - 1, number, dtype=int))
            assert spread(total, number, "nearest") == tuple(np.round(even).astype(int))


@pytest.mark.parametrize(
    ("medium", "arguments", "numbers"),
    [
        (media(8, 8, 90, 30.0), (32, 1.0), (0, 30, 60)),
        (media(8, 8, 90, 30.0), (2, 1.0), (0, 89)),
        (media(8, 8, 5), (32, 1.0), (0, 1, 2, 3, 4)),
        (media(8, 8, 5, 0.2), (32, 1.0), (0, 1, 2, 3, 4)),
        (media(8, 8, 3), (8, None), (0, 1, 2)),
        (media(8, 8, 3), (5, None, "down", True), (0, 0, 1, 1, 2)),
        (media(8, 8, 3), (5, None, "nearest", True), (0, 0, 1, 2, 2)),
        (media(8, 8, 9), (1, None), (0,)),
    ],
)
def test_frames_are_chosen(medium: MediaSize, arguments: tuple, numbers: tuple[int, ...]) -> None:
    assert frame_numbers(medium, *arguments) == numbers


@pytest.mark.parametrize(
    ("changes", "positions"),
    [
        ({"newline": None}, 4 * 9),
        ({"newline_at": "end"}, 4 * 9 + 1),
        ({"newline_at": "frame"}, 4 * (9 + 1)),
        ({"newline_at": "row"}, 4 * 3 * (3 + 1)),
    ],
)
def test_pooled_frames_take_the_original_number_of_positions(changes: dict, positions: int) -> None:
    strategy = Frames(most=32, pool=2, newline="newline").but(**changes)
    assert strategy.plan(media(20, 10, frames=4), sight(10, (5, 5))).positions == positions


def test_a_frame_shown_again_is_encoded_once() -> None:
    plan = PooledFrames(frames=8, pools=((4, 1, 1),), after="\n").plan(media(9, 9, frames=3), sight())
    assert [view.frame for view in plan.views] == [0, 1, 2]
    means = [block for block in plan.blocks if isinstance(block, Mean)]
    assert [block.views for block in means] == [(0, 0, 1, 1), (1, 1, 2, 2)]
    assert [block for block in plan.blocks if isinstance(block, Words)] == [Words("\n")] * 2


def test_frames_and_cells_are_averaged() -> None:
    plan = PooledFrames(frames=4, pools=((2, 1, 1), (4, 2, 2))).plan(media(9, 9, frames=4), sight(24, (2, 4)))
    values = torch.randn(4, 8, 3)
    rows = arrange(Features(values, (2, 4)), plan, {})
    maps = values.view(4, 2, 4, 3)
    patches = torch.stack([maps[:, :, :2].mean((0, 1, 2)), maps[:, :, 2:].mean((0, 1, 2))])
    assert torch.allclose(rows, torch.cat([values[:2].mean(0), values[2:].mean(0), patches]), atol=1e-6)
    assert prod((4, 8)) == 32 and plan.positions == 18


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tiles(min_tiles=5, max_tiles=4), "5 to 4 tiles"),
        (lambda: AnyRes(grids=()), "grids of tiles"),
        (lambda: AnyRes(grids=((1, 1),), max_tiles=0), "max_tiles 0"),
        (lambda: DynamicS2(sides=(2, 1)), "must grow"),
        (lambda: DynamicS2(sides=(1, 3), max_tiles=8), "give at least 9"),
        (lambda: Frames(most=0), "each must be at least 1"),
        (lambda: Frames(most=4, per_second=0.0), "positive rate"),
        (lambda: PooledFrames(frames=6, pools=((4, 1, 1),)), "does not divide 6 frames"),
        (lambda: MediaSize(width=0, height=4), "every side must be at least 1"),
        (lambda: MediaSize(width=4, height=4, fps=0.0), "positive one"),
    ],
)
def test_impossible_strategies_are_refused(make, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def test_a_pool_must_divide_the_map() -> None:
    with pytest.raises(SpecError, match="does not divide the 4x4 map"):
        PooledFrames(frames=2, pools=((1, 3, 1),)).plan(media(9, 9), sight())


def test_features_that_do_not_fill_a_plan_are_refused() -> None:
    plan: Plan = Fixed(fit="squash").plan(media(9, 9), sight())
    with pytest.raises(ValueError, match="planned positions: 16, feature rows: 9"):
        arrange(Features(torch.zeros(1, 9, 2), (3, 3)), plan, {})
