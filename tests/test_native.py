"""Views of no fixed size: the original's sizes and frames, and the encoder that reads them."""

from __future__ import annotations

import examples
import pytest
import torch
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel as Reference

from omniform import index
from omniform.batch import Features
from omniform.cost.flops import positions, prefill_flops
from omniform.data.document import Document
from omniform.data.processor import Processor
from omniform.data.tokenizer import train_tokenizer
from omniform.encoders.native_vit import VIT_675M
from omniform.geometry import MediaSize, SpecError, Volume
from omniform.parts import Sight
from omniform.views.arrange_module import arrange
from omniform.views.native import Native, NativeFrames, fitted

SIZES = [(24, 24), (1, 150), (150, 1), (7, 5), (640, 427), (1200, 300), (25, 23), (5000, 5000)]
SYSTEM = index.system("qwen2-vl")


def sight(side: int = 6) -> Sight:
    """Cells of some pixels on each side."""
    return Sight(
        size=(4 * side, 4 * side), mean_rgb=(1, 2, 3), cells=lambda hw: (hw[0] // side, hw[1] // side), together=2
    )


def media(width: int, height: int, frames: int = 1, fps: float | None = None) -> MediaSize:
    return MediaSize(width=width, height=height, frames=frames, fps=fps)


@pytest.mark.parametrize("strategy", examples.FREE_VIEWS, ids=str)
def test_every_position_is_filled(strategy: Native | NativeFrames) -> None:
    for number, (width, height) in enumerate(SIZES):
        for frames in (1, 3, 40):
            plan = strategy.plan(media(width, height, frames, (None, 0.5, 24.0)[number % 3]), sight())
            assert plan.size[0] % 6 == plan.size[1] % 6 == len(plan.views) % 2 == 0
            assert all(view.steps[-1].size == plan.size and 0 <= view.frame < frames for view in plan.views)  # type: ignore[union-attr]
            cells = plan.size[0] // 6 * (plan.size[1] // 6)
            rows = arrange(Features(torch.randn(len(plan.views) // 2, cells, 5), (1, 1)), plan, {})
            assert rows.shape == (plan.positions, 5)
    small = strategy.shrunk("tiny").rescaled(112, 64)
    assert small.plan(media(100, 40, 5), sight(16)).positions > 0


def test_budgets_are_kept() -> None:
    for width, height in SIZES[3:]:
        size = fitted((height, width), 28, 3136, 1003520)
        assert 3136 <= size[0] * size[1] <= 1003520


def test_frames_are_those_of_the_original() -> None:
    """Worked from smart_nframes and torch.linspace (QwenLM/Qwen2-VL@35ba6e1 vision_process.py:153-163, 196)."""
    video = SYSTEM.continuous("video").views
    assert isinstance(video, NativeFrames)
    for frames, fps, count in [(240, 30.0, 16), (250, 25.0, 20), (30, 30.0, 4), (3, 30.0, 2), (10000, 10.0, 768)]:
        assert len(video.frame_numbers(media(640, 480, frames, fps), 2)) == count
    assert video.frame_numbers(media(1, 1, 30, 30.0), 2) == (0, 10, 19, 29)
    assert video.frame_numbers(media(1, 1, 3), 2) == (0, 1, 2, 2)
    assert video.frame_numbers(media(1, 1, 1, 25.0), 2) == (0, 0)
    # 768 frames share 24576 cells: 64 a pair, but never fewer than 128 and a twentieth
    assert video.plan(media(640, 480, 10000, 10.0), sight(28)).size == (280, 364)


def test_refusals() -> None:
    with pytest.raises(SpecError, match="6000x20: one side is more than 200 times the other"):
        SYSTEM.plan("image", media(6000, 20))
    with pytest.raises(SpecError, match="5 to 4 pixels"):
        Native(min_pixels=5, max_pixels=4)
    with pytest.raises(SpecError, match="5 to 4 frames"):
        NativeFrames(least=5, most=4, min_pixels=1, max_pixels=2, total_pixels=2)
    with pytest.raises(SpecError, match=r"reads \(24, 24\) views"):
        SYSTEM.but({"inputs.image.encoder": examples.CLIP, "stages": ()})
    with pytest.raises(SpecError, match="joins 2 x 2 cells of a map"):
        SYSTEM.continuous("image").connector.cells((3, 4))
    with pytest.raises(SpecError, match="whole patches"):
        VIT_675M.cells((28, 30))
    with pytest.raises(ValueError, match="views: 3, but 2 make one set"):
        examples.NATIVE.build()(torch.zeros(3, 3, 16, 16))


# --- what the survey's column and `cost` say ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "size", "rows"),
    [
        ("image", media(336, 336), 144),
        ("image", media(1024, 768), 999),
        ("image", media(1920, 1080), 2691),
        ("video", media(640, 480, 240, 30.0), 3128),
    ],
)
def test_costs_count_the_positions_that_the_processor_lays_out(modality: str, size: MediaSize, rows: int) -> None:
    assert positions(SYSTEM, modality, size) == rows
    plan = SYSTEM.plan(modality, size)
    (block,) = plan.blocks
    assert isinstance(block, Volume)
    assert block.frames == len(plan.views) // 2
    flops = prefill_flops(SYSTEM, [(modality, size)], 10)
    encoder, connector = SYSTEM.continuous("image").encoder, SYSTEM.continuous("image").connector
    per_pair = encoder.flops(plan.size) * 2
    assert flops["image.encoder"] == len(plan.views) // 2 * per_pair
    assert flops["image.connector"] == block.frames * connector.flops(encoder.cells(plan.size), 1280, 3584)


def test_the_processor_lays_out_as_many() -> None:
    from PIL import Image

    processor = Processor(SYSTEM, train_tokenizer(["what"], size=300))
    for w, h in [(336, 336), (1024, 768), (1920, 1080)]:
        (item,) = processor.sample(Document.ask("what", image=Image.new("RGB", (w, h)))).media
        assert len(item.at) == positions(SYSTEM, "image", media(w, h))
    frames = [Image.new("RGB", (64, 48))] * 7
    (item,) = processor.sample(Document.ask("what", video=frames)).media
    assert len(item.at) == positions(SYSTEM, "video", media(64, 48, 7))


# --- transformers' numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "sets"), [((4, 4), 1), ((2, 6), 3), ((8, 2), 2)])
def test_the_encoder_equals_transformers(grid: tuple[int, int], sets: int) -> None:
    """Their patches stand in blocks of 2 x 2, ours row by row."""
    torch.manual_seed(0)
    encoder = examples.NATIVE.but(mlp_dim=64)
    module = encoder.build()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    kind: type = Reference.config_class  # type: ignore[assignment]
    config = kind(depth=3, embed_dim=32, num_heads=4, mlp_ratio=2, hidden_size=20, patch_size=8)
    reference = Reference(config).eval()
    missing, unexpected = reference.load_state_dict(module.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("merger.") for name in missing)
    pixels = torch.randn(2 * sets, 3, grid[0] * 8, grid[1] * 8)
    x = pixels.unflatten(0, (sets, 2)).unflatten(3, (grid[0] // 2, 2, 8)).unflatten(6, (grid[1] // 2, 2, 8))
    flat = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(0, 4).flatten(1)
    theirs = reference(flat, grid_thw=torch.tensor([[sets, *grid]])).last_hidden_state
    theirs = theirs.view(sets, grid[0] // 2, grid[1] // 2, 2, 2, 32).transpose(2, 3).reshape(sets, -1, 32)
    with torch.no_grad():
        ours = module(pixels).values
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
