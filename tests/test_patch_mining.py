"""Patch info mining, crops of a view, the ConvNeXt tower, and the system that joins them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omniform import index
from omniform.batch import Batch, Features, MediaBatch, Tree
from omniform.connectors.patch_mining import PatchMining
from omniform.encoders.clip import CLIP_L_224, CLIP_L_336
from omniform.encoders.conv_net import ConvNet
from omniform.encoders.convnext_clip import CONVNEXT_CLIP_L_768, ConvNextClip
from omniform.encoders.cropped import Cropped
from omniform.encoders.dinov2 import DINOV2_L_336
from omniform.encoders.several import Several
from omniform.geometry import MediaSize, SpecError
from omniform.model import Lmm
from omniform.spec import System
from omniform.weights import layout
from omniform.weights.layout import Place

CLIP = CLIP_L_224.shrunk("tiny")


def mining(coarse: int = 6, fine: int = 5) -> Any:
    torch.manual_seed(0)
    module = PatchMining(depth=1).build(in_dim=coarse, out_dim=7, others=(fine,))
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def by_hand(module: Any, cell: Tensor, fine: Tensor) -> Tensor:
    """One cell and the fine cells under it, (n, width)."""
    query, keys, values = module.query(cell), module.key(fine), module.value(fine)
    return module.layers(cell + (query @ keys.T / len(query) ** 0.5).softmax(0) @ values)


# --- connector ---------------------------------------------------------------------------------------------------


def test_a_cell_reads_the_fine_cells_under_it() -> None:
    module = mining()
    coarse, fine = torch.randn(2, 6, 6), torch.randn(2, 6 * 6, 5)
    out = module(Features(coarse, (2, 3)), Features(fine, (6, 6)))  # 3 x 2 fine cells under each
    assert out.grid == (2, 3)
    maps = fine.unflatten(1, (6, 6))
    for row in range(2):
        for column in range(3):
            under = maps[1, 3 * row : 3 * row + 3, 2 * column : 2 * column + 2].flatten(0, 1)
            wanted = by_hand(module, coarse[1, 3 * row + column], under)
            assert torch.allclose(out.values[1, 3 * row + column], wanted, atol=1e-5)


def test_crops_read_their_part_and_the_whole_a_smaller_map() -> None:
    module = mining()
    coarse, fine = torch.randn(1, 5 * 4, 6), torch.randn(1, 64, 5)
    out = module(Features(coarse, (5, 2, 2)), Features(fine, (8, 8)))
    assert out.grid == (20,)
    maps = fine[0].unflatten(0, (8, 8))
    small = F.avg_pool2d(maps.permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0)  # what bilinear halving is
    for row in range(2):
        for column in range(2):
            under = small[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(0, 1)
            wanted = by_hand(module, coarse[0, 2 * row + column], under)
            assert torch.allclose(out.values[0, 2 * row + column], wanted, atol=1e-5)
    for crop in range(4):
        part = maps[4 * (crop // 2) :, 4 * (crop % 2) :]
        for row in range(2):
            for column in range(2):
                at = 4 + 4 * crop + 2 * row + column
                under = part[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(0, 1)
                assert torch.allclose(out.values[0, at], by_hand(module, coarse[0, at], under), atol=1e-5)


def test_maps_that_do_not_divide_are_refused() -> None:
    mine = PatchMining()
    assert mine.cells((24, 24), (192, 192)) == (24, 24) and mine.under((24, 24), (192, 192)) == (8, 8)
    assert mine.cells((5, 24, 24), (384, 384)) == (2880,) and mine.under((4, 24, 24), (384, 384)) == (8, 8)
    for grids in [((24, 24), (190, 192)), ((3, 24, 24), (384, 384)), ((577,), (192, 192)), ((24, 24), (9,))]:
        with pytest.raises(SpecError, match=re.escape(f"the encoders give {grids[0]} and {grids[1]}")):
            mine.cells(*grids)
    with pytest.raises(SpecError, match="PatchMining reads the features of 2 encoders, but ClipVit gives 1"):
        index.system("mini-gemini").but({"inputs.image.encoder": CLIP_L_336})


def test_published_parameter_counts() -> None:
    assert PatchMining().num_params(1024, 4096, (2880,)) == 27_943_168
    assert CONVNEXT_CLIP_L_768.num_params() == 196_227_264
    assert CONVNEXT_CLIP_L_768.dim == 2880 and CONVNEXT_CLIP_L_768.cells((768, 768)) == (192, 192)


# --- encoders ----------------------------------------------------------------------------------------------------


def test_later_stages_are_enlarged_to_the_first_taken() -> None:
    spec = CONVNEXT_CLIP_L_768.shrunk("tiny")
    torch.manual_seed(0)
    module = spec.build()
    pixels = torch.randn(1, 3, 64, 64)
    maps = module(pixels).values.transpose(1, 2).unflatten(2, (16, 16)).split(spec.widths, dim=1)
    x = module.stem(pixels)
    for number, stage in enumerate(module.stages):
        x = stage(x)
        assert torch.equal(maps[number], F.interpolate(x, size=(16, 16), mode="bilinear") if number else x)
    only = spec.but(taken=(3,))
    assert (only.dim, only.cells((64, 64)), only.but(image=96).cells((96, 64))) == (10, (2, 2), (3, 2))


def test_blocks_start_as_almost_nothing() -> None:
    module = ConvNextClip(image=32, widths=(4, 6), depths=(1, 1), taken=(0,)).build()
    x = torch.randn(1, 4, 8, 8)
    assert torch.allclose(module.stages[0](x), x, atol=1e-4)
    assert module.idle() == ("stages.1.",)


def test_impossible_towers_are_refused() -> None:
    with pytest.raises(SpecError, match="2 widths and 1 depths"):
        ConvNextClip(image=32, widths=(4, 6), depths=(1,), taken=(0,))
    for taken in ((), (1, 0), (2,), (0, 0)):
        with pytest.raises(SpecError, match="must name stages from 0 to 1 in growing order"):
            ConvNextClip(image=32, widths=(4, 6), depths=(1, 1), taken=taken)
    with pytest.raises(SpecError, match="sides divide by 8"):
        ConvNextClip(image=36, widths=(4, 6), depths=(1, 1), taken=(0,))


def test_a_view_is_cut_into_crops_after_the_whole() -> None:
    module = Cropped(inner=CLIP, side=2).build()
    view = torch.randn(2, 3, 48, 48)
    pieces = module.cut(view)
    assert pieces.shape == (2, 5, 3, 24, 24)
    assert torch.allclose(pieces[:, 0], F.avg_pool2d(view, 2), atol=1e-6)  # what bilinear halving is
    assert torch.equal(pieces[:, 3], view[:, :, 24:, :24])
    features = module(view)
    assert features.grid == (5, 4, 4)
    alone = module.inner(view[:, :, 24:, :24]).values
    assert torch.allclose(features.values[:, 48:64], alone, atol=1e-5)
    assert module.idle() == tuple(f"inner.{name}" for name in module.inner.idle())


def test_crops_need_a_map() -> None:
    with pytest.raises(SpecError, match=r"Cropped keeps a map of each crop, but DinoV2 gives \(575,\) cells"):
        Cropped(inner=DINOV2_L_336.but(drop_first=True))
    with pytest.raises(SpecError, match="side 0: give at least 1"):
        Cropped(inner=CLIP, side=0)
    assert Cropped(inner=CLIP, side=3, overview=False).cells((72, 72)) == (9, 4, 4)


# --- system ------------------------------------------------------------------------------------------------------


def positions(system: System, width: int, height: int) -> int:
    return system.plan("image", MediaSize(width=width, height=height)).positions


def test_positions_are_those_of_the_releases() -> None:
    assert positions(index.system("mini-gemini"), 640, 480) == 576
    assert positions(index.system("mini-gemini"), 2000, 300) == 576
    assert positions(index.system("mini-gemini:7b-hd"), 640, 480) == 2880


LANGUAGE = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    "architectures": ["MGMLlamaForCausalLM"], "model_type": "llama", "image_aspect_ratio": "pad",
    "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
}  # fmt: skip


def test_a_release_sizes_the_system() -> None:
    base = index.release("mini-gemini", {**LANGUAGE, "image_size_aux": 768, "image_grid": 1, "image_global": False})
    whole = index.system("mini-gemini")
    assert (base.inputs, base.backbone, base.prompt, base.stages) == (
        whole.inputs, whole.backbone, whole.prompt, whole.stages,
    )  # fmt: skip
    finer = index.release("mini-gemini", {**LANGUAGE, "image_size_aux": 1536, "image_grid": 2, "image_global": True})
    wanted = index.system("mini-gemini:7b-hd")
    assert (finer.inputs, finer.stages) == (wanted.inputs, wanted.stages)
    assert finer.stages[1].max_positions == 4096
    for key, value, message in [
        ("mm_projector_type", "linear", "is no MLP"), ("image_aspect_ratio", "anyres", "is none of this system's"),
    ]:  # fmt: skip
        with pytest.raises(SpecError, match=message):
            index.release("mini-gemini", {**LANGUAGE, key: value})


@pytest.mark.parametrize("variant", ["", ":7b-hd"])
def test_the_layout_reaches_encoders_inside_encoders(variant: str) -> None:
    system = index.system(f"mini-gemini{variant}").shrunk("tiny")
    inner = "inner." if variant else ""
    ours = f"inputs.image.encoder.members.0.{inner}model.pre_layrnorm.weight"
    released = "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight"
    assert layout.place_of(ours, system) == Place(released)
    clip, convnext = system.layout.separate.values()
    assert layout.key_at(Place("vision_model.pre_layrnorm.weight", clip), system) == ours
    stem = layout.key_at(Place("visual.trunk.stem.0.weight", convnext), system)
    assert stem == "inputs.image.encoder.members.1.stem.0.weight"
    assert layout.key_at(Place("visual.head.proj.weight", convnext), system) is None


@pytest.mark.parametrize("size", ["tiny", "nano"])
def test_the_finer_size_learns_from_a_picture(size: Any) -> None:
    system = index.system("mini-gemini:7b-hd").shrunk(size)
    torch.manual_seed(0)
    model = Lmm(system)
    plan = system.plan("image", MediaSize(width=50, height=30))
    rows, words = plan.positions, 4
    pixels = torch.randint(0, 256, (1, 3, *plan.size), dtype=torch.uint8)
    batch = Batch(
        ids=torch.arange(rows + words) % 50,
        positions=torch.arange(rows + words),
        tree=Tree.of([rows + words]),
        media={"image": MediaBatch((pixels,), (plan,), torch.arange(rows))},
        predict_at=torch.arange(rows, rows + words - 1),
        targets=torch.arange(rows + 1, rows + words) % 50,
        weights=torch.ones(words - 1),
    )
    loss = model(batch)["text"].mean
    loss.backward()
    assert loss.isfinite()
    connector = model.inputs["image"].connector
    assert all(bool(p.grad.abs().max() > 0) for p in connector.layers.parameters())
    if size == "nano":
        encoder = system.continuous("image").encoder
        assert isinstance(encoder, Several) and isinstance(encoder.members[1], ConvNet)
        assert (encoder.grids(encoder.size), rows) == (((5, 4, 4), (8, 8)), 80)
