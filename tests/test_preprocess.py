"""Pixels through plan, views and normalisation equal the originals' preprocessing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import NEXT_GRIDS
from PIL import Image
from safetensors.torch import load_file

from omniform.data.document import Media
from omniform.data.media import frames_of, size_of, views_of
from omniform.encoders.clip import CLIP_H_448, CLIP_L_224, CLIP_L_336
from omniform.encoders.s2 import S2
from omniform.encoders.siglip import SIGLIP_SO400M_384, SIGLIP_SO400M_448
from omniform.parts import Encoder, Sight, Views
from omniform.views.any_res import AnyRes, grids_up_to
from omniform.views.dynamic_s2 import DynamicS2
from omniform.views.fixed import Fixed

GOLDENS = Path(__file__).parent / "goldens"
THIN = {"width": 8, "layers": 2, "heads": 1, "mlp_dim": 8}
S2_1152 = S2(inner=SIGLIP_SO400M_384.but(**THIN))
NEXT = AnyRes(grids=NEXT_GRIDS)
ONE_VISION = AnyRes(grids=grids_up_to(6, 6), max_tiles=9)
TILES = {"tile0": 0, "tile1": 1, "tile_last": -1}
WHITE = (255, 255, 255)

STATISTICS: list[tuple[str, Encoder, Views, dict[str, int]]] = [
    ("llava", CLIP_L_224, Fixed(fit="crop"), {"pixel_values": 0}),
    ("llava-1.5", CLIP_L_336, Fixed(fit="pad"), {"pixel_values": 0}),
    ("llava-next", CLIP_L_336, NEXT, TILES),
    ("llava-onevision", SIGLIP_SO400M_384, ONE_VISION, TILES),
    ("yi-vl", CLIP_H_448, Fixed(fit="pad"), {"pixel_values": 0}),
    ("vila", SIGLIP_SO400M_384, Fixed(fit="squash"), {"resize_384": 0}),
    (
        "vila",
        SIGLIP_SO400M_448,
        DynamicS2(),
        {"dynamic_s2_block0": 0, "dynamic_s2_block1": 1, "dynamic_s2_last_block": -1},
    ),
    ("bunny", SIGLIP_SO400M_384, Fixed(fit="pad"), {"pixel_values_384": 0}),
    ("bunny", S2_1152, Fixed(fit="pad"), {"pixel_values_1152_s2": 0}),
    ("tinyllava", SIGLIP_SO400M_384, Fixed(fit="squash"), {"square": 0}),
    ("tinyllava", SIGLIP_SO400M_384, Fixed(fit="pad"), {"pad": 0}),
    ("imp", SIGLIP_SO400M_384, Fixed(fit="squash"), {"pixel_values": 0}),
    ("shikra", CLIP_L_224, Fixed(fit="pad", fill=WHITE), {"pixel_values": 0}),
]


def picture(width: int, height: int) -> Image.Image:
    """The picture whose preprocessing was recorded."""
    y, x, c = np.mgrid[:height, :width, :3]
    return Image.fromarray(((7 * x + 13 * y + 41 * c + (x * y) // 17) % 256).astype(np.uint8))


def thin(encoder: Encoder) -> Encoder:
    """The encoder with its own views, and little else."""
    return encoder if isinstance(encoder, S2) else encoder.but(**THIN)


def pixels(encoder: Encoder, views: Views, image: Image.Image) -> torch.Tensor:
    media = Media("image", image)
    sight = Sight(size=encoder.size, mean_rgb=encoder.mean_rgb, cells=encoder.cells)
    plan = views.plan(size_of(media), sight)
    return encoder.build().normalise(views_of(frames_of(media), plan, encoder.resample))


@pytest.mark.parametrize(("slug", "encoder", "views", "names"), STATISTICS, ids=lambda v: v if type(v) is str else "")
def test_statistics_and_samples_are_the_originals(
    slug: str, encoder: Encoder, views: Views, names: dict[str, int]
) -> None:
    cases = json.loads((GOLDENS / f"{slug}__preprocess.json").read_text(encoding="utf-8"))["cases"]
    assert len(cases) == 3
    for case in cases:
        got = pixels(thin(encoder), views, picture(*case["image_wh"]))
        for name, view in names.items():
            wanted, values = case[name], got[view].flatten()
            assert list(got[view].shape) == wanted["shape"]
            samples = values[[i * 7919 % values.numel() for i in range(64)]]
            assert samples.tolist() == pytest.approx(wanted["samples"], abs=1e-4)
            assert values.double().mean().item() == pytest.approx(wanted["mean"], abs=1e-5)
            assert values.double().std().item() == pytest.approx(wanted["std"], abs=1e-5)


TINY_CLIP = CLIP_L_224.shrunk("tiny")
TINY_SIGLIP = SIGLIP_SO400M_384.shrunk("tiny").but(image=10, patch=2)
TINY_S2 = S2(inner=TINY_SIGLIP.but(image=12, patch=3))


@pytest.mark.parametrize(
    ("name", "encoder", "views"),
    [
        ("llava__linear_start_end", TINY_CLIP, Fixed(fit="crop")),
        ("llava-1.5__batch_padded", TINY_CLIP, Fixed(fit="pad")),
        ("sharegpt4v__batch", TINY_CLIP, Fixed(fit="pad")),
        ("llava-next__anyres_wide_tall", TINY_CLIP, NEXT),
        ("llava-onevision__anyres_max_interpolate", TINY_SIGLIP, ONE_VISION),
        ("bunny__s2_llama", TINY_S2, Fixed(fit="pad")),
    ],
)
def test_whole_pictures_are_the_originals(name: str, encoder: Encoder, views: Views) -> None:
    held = load_file(GOLDENS / f"{name}.safetensors")
    numbers = [i for i in range(9) if f"in.image{i}_u8" in held]
    assert numbers
    for i in numbers:
        got = pixels(encoder, views, Image.fromarray(held[f"in.image{i}_u8"].numpy()))
        wanted = held[f"in.pixel_values{i}"] if f"in.pixel_values{i}" in held else held["in.pixel_values"][i : i + 1]
        assert got.shape == wanted.shape
        assert torch.allclose(got, wanted, atol=1e-6), (got - wanted).abs().max()
