"""From features to rows: what the originals put into the sequence, from their own encoders' features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from examples import NEXT_GRIDS
from safetensors import safe_open
from torch import Tensor

from omniform.batch import Features
from omniform.connectors.downsample_mlp import DownsampleMlp
from omniform.connectors.mlp import Mlp
from omniform.encoders.vit_module import stretched_positions
from omniform.geometry import MediaSize, Plan
from omniform.parts import Connector, Sight, Views
from omniform.views.any_res import AnyRes, grids_up_to
from omniform.views.arrange_module import arrange, merge_scales
from omniform.views.dynamic_s2 import DynamicS2
from omniform.views.fixed import Fixed
from omniform.views.frames import Frames
from omniform.views.pooled_frames import PooledFrames

GOLDENS = Path(__file__).parent / "goldens"
VIDEO = Frames(most=32, pool=2, newline="newline")


def held(name: str) -> dict[str, Tensor]:
    with safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def plan_of(views: Views, media: MediaSize, connector: Connector, side: int, cells: int) -> Plan:
    """The plan for an encoder of `side` pixels and `cells` x `cells` features."""
    return views.plan(
        media, Sight(size=(side, side), mean_rgb=(0, 0, 0), cells=lambda size: connector.cells((cells, cells)))
    )


def connected(connector: Connector, golden: dict[str, Tensor], prefix: str, features: Features) -> Features:
    weights = {f"layers.{k.removeprefix(prefix)}": v for k, v in golden.items() if k.startswith(prefix)}
    dim = next(v for k, v in reversed(weights.items()) if k.endswith("bias")).shape[0]
    module = connector.build(in_dim=features.values.shape[2], out_dim=dim)
    module.load_state_dict(weights)
    return module(features)


def close(got: Tensor, wanted: Tensor) -> bool:
    return got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "views", "media", "side", "cells"),
    [
        ("llava-next__anyres_wide_tall", AnyRes(grids=NEXT_GRIDS), ((100, 40), (20, 90)), 24, 4),
        ("llava-next__single_tile", Fixed(fit="squash", newline="newline"), ((24, 24),), 24, 4),
        (
            "llava-onevision__anyres_max_interpolate",
            AnyRes(grids=grids_up_to(6, 6), max_tiles=4),
            ((43, 26),),
            10,
            5,
        ),
        ("llava-onevision__two_single_tile_images", Fixed(fit="pad", newline="newline"), ((30, 20), (10, 10)), 10, 5),
        ("llava-onevision__video_one_token", VIDEO, ((10, 10, 4),), 10, 5),
        ("llava-onevision__video_frame_newline", VIDEO.but(newline_at="frame"), ((10, 10, 4),), 10, 5),
        ("llava-onevision__video_grid_newline", VIDEO.but(newline_at="row"), ((10, 10, 4),), 10, 5),
    ],
)
def test_rows_with_newlines_equal_the_originals(name: str, views: Views, media: tuple, side: int, cells: int) -> None:
    golden, connector = held(name), Mlp()
    features = Features(golden["out.encoder_features"], (cells, cells))
    rows = connected(connector, golden, "param.model.mm_projector.", features)
    plans = [
        plan_of(views, MediaSize(width=m[0], height=m[1], frames=m[2] if len(m) > 2 else 1), connector, side, cells)
        for m in media
    ]
    assert sum(len(p.views) for p in plans) == len(features.values)
    learned, got, first = {"newline": golden["param.model.image_newline"]}, [], 0
    for plan in plans:
        own = Features(rows.values[first : first + len(plan.views)], rows.grid)
        got.append(arrange(own, plan, learned))
        first += len(plan.views)
    for wanted, own in zip(media_spans(golden, [len(g) for g in got]), got, strict=True):
        assert close(own, wanted)


def media_spans(golden: dict[str, Tensor], lengths: list[int]) -> list[Tensor]:
    """The media's rows in the original's embeddings: each takes the place of an id -200."""
    spans: list[Tensor] = []
    for ids, embeds in zip(golden["in.input_ids"].tolist(), golden["out.inputs_embeds"], strict=True):
        at = 0
        for number in ids:
            if number == -200:
                spans.append(embeds[at : at + lengths[len(spans)]])
                at += len(spans[-1])
            else:
                at += 1
    return spans


def test_scales_joined_on_channels_equal_the_original() -> None:
    golden, connector = held("vila__nvila_dynamic_s2"), DownsampleMlp()
    features = golden["out.encoder_features"]
    wide = plan_of(DynamicS2(), MediaSize(width=640, height=480), connector, 15, 5)
    plain = plan_of(Fixed(fit="squash", copies=3), MediaSize(width=15, height=15), connector, 15, 5)
    assert [s.tiles for s in wide.scales] == [(1, 1), (2, 2), (3, 4)]
    for plan, values, wanted in (
        (wide, features[:17], golden["out.connector0"]),
        (plain, features[17:], golden["out.connector1"]),
    ):
        merged = merge_scales(Features(values, (5, 5)), plan)
        rows = connected(connector, golden, "param.mm_projector/layers.", merged)
        assert close(arrange(rows, plan, {}), wanted)


def test_groups_of_frames_equal_the_original() -> None:
    golden = held("vila__video_tsp")
    features, newline = golden["in.frame_features"], golden["param.llm/model.embed_tokens.weight[13]"]
    views = PooledFrames(frames=8, pools=((4, 1, 1),), after="\n")
    plan = plan_of(views, MediaSize(width=9, height=9, frames=8), Mlp(), 9, 3)
    rows = arrange(Features(features, (3, 3)), plan, {})
    with_text = torch.cat([rows[:9], newline, rows[9:], newline])
    assert close(with_text, golden["out.video_tokens"])


def test_stretched_positions_equal_the_original() -> None:
    golden = held("vila__pos_embed_linear_resize")
    got = stretched_positions(golden["in.position_embedding"], 49)
    assert close(got, golden["out.position_embedding_resized"])
    assert got[0].abs().max() == got[-1].abs().max() == 0
