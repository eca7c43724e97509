"""ImageBind's towers give the original's numbers; clips of sound and video stand where the original's stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from omniform.batch import Features
from omniform.data.media import views_of
from omniform.encoders.imagebind_audio import IMAGEBIND_HUGE_AUDIO
from omniform.encoders.imagebind_vision import IMAGEBIND_HUGE
from omniform.geometry import Crop, MediaSize, Mono, Plan, Resample, Resize, Sight, Span, SpecError
from omniform.views.arrange_module import merged_views
from omniform.views.clips import SoundClips, VideoClips
from omniform.views.fixed import Fixed
from omniform.weights.layout import ours

PARTS = Path(__file__).parent / "goldens" / "parts"
SIGHT = Sight(size=(224, 224), mean_rgb=(0, 0, 0), cells=lambda size: (1,), together=2)
HEARD = Sight(size=(1, 32000), mean_rgb=(0, 0, 0), cells=lambda size: (1,), rate=16000)


def tower(encoder: Any, held: dict[str, Tensor]) -> Any:
    """The module of an encoder with a golden's weights, by the rules of its released checkpoint."""
    module = encoder.build()
    params = {key.removeprefix("param."): t for key, t in held.items() if key.startswith("param.")}
    renamed = {ours(key, encoder.released): t for key, t in params.items()}
    module.load_state_dict({name: t for name, t in renamed.items() if name})
    return module


@torch.no_grad()
def test_imagebind_gives_the_originals_numbers() -> None:
    """Whole original at small sizes, facebookresearch/ImageBind@53680b0; pictures are shown twice, clips averaged."""
    held = load_file(PARTS / "imagebind__all_modalities.safetensors")
    small: dict[str, Any] = {"width": 12, "layers": 2, "heads": 2, "mlp_dim": 48, "out_dim": 12}
    vision = tower(IMAGEBIND_HUGE.but(**small, image=56, held_image=56), held)
    twice = held["in.vision"].repeat_interleave(2, 0)
    assert_close(vision.trunk(twice), held["out.trunk_vision"])
    assert_close(vision(twice).values[:, 0], held["out.emb_vision"])
    audio = tower(IMAGEBIND_HUGE_AUDIO.but(**small, mels=36, columns=46), held)
    assert_close(audio.trunk(held["in.audio"][0]), held["out.trunk_audio"])
    assert_close(audio(held["in.audio"][0]).values.mean(0), held["out.emb_audio"])


@torch.no_grad()
def test_imagebind_hears_and_sees_as_its_users_do() -> None:
    """Towers of full geometry, 2 clips averaged, OpenGVLab/LLaMA-Adapter@521a09d; patches of the picture are even."""
    held = load_file(PARTS / "imagebind-llm__imagebind_tower_vision_audio.safetensors")
    small: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "mlp_dim": 64, "out_dim": 16}
    image = held["in.image_low_16x16"].repeat_interleave(14, 2).repeat_interleave(14, 3)
    vision = tower(IMAGEBIND_HUGE.but(**small), held)(image.repeat_interleave(2, 0))
    audio = tower(IMAGEBIND_HUGE_AUDIO.but(**small), held)(held["in.audio"][0])
    assert_close(vision.values[:, 0], held["out.vision"])
    assert_close(audio.values.mean(0), held["out.audio"])
    assert torch.allclose(audio.values.norm(dim=-1), torch.tensor(20.0))


def test_imagebind_hears_the_originals_spectrogram() -> None:
    """torchaudio's filter banks, of which every fourth was recorded; zeros at the end are there before normalising."""
    held = load_file(PARTS / "imagebind__melspec.safetensors")
    module = IMAGEBIND_HUGE_AUDIO.but(width=12, layers=1, heads=2, mlp_dim=8).build()
    for name in ("2s", "short"):
        found = module.spectrogram(held[f"in.wave_{name}"][None])
        assert_close(found[:, 0, ::4], held[f"out.melspec_{name}"])
    silent = module.normalise(held["in.wave_short"][None])[0, 0, :, -1]
    assert torch.allclose(silent, torch.tensor(4.268 / 9.138))


def assert_close(got: Tensor, wanted: Tensor) -> None:
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()


# --- clips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "rate", "spans"),
    [
        (160000, 16000, ((0, 32000), (64000, 32000), (128000, 32000))),
        (48001, 16000, ((0, 32000), (8000, 32000), (16000, 32000))),  # seconds are rounded, as the original's
        (32000, 16000, ((0, 32000),)),
        (20000, 16000, ((0, 20000),)),
        (100, 16000, ((0, 400),)),
        (40000, 8000, ((0, 32000), (24000, 32000), (48000, 32000))),
    ],
)
def test_clips_of_sound_are_spread_from_end_to_end(samples: int, rate: int, spans: tuple) -> None:
    plan = SoundClips().plan(MediaSize(samples=samples, rate=rate), HEARD)
    resample = () if rate == 16000 else (Resample(16000),)
    assert [view.steps for view in plan.views] == [(Mono("first"), *resample, Span(*span)) for span in spans]
    assert (plan.positions, plan.averaged) == (1, len(spans) > 1)


@pytest.mark.parametrize(
    ("frames", "fps", "numbers"),
    [
        (300, 30.0, [(0, 59), (60, 119), (120, 179), (180, 239), (240, 299)]),
        (61, 30.0, [(0, 59), (1, 60), (1, 60), (1, 60), (1, 60)]),
        (60, 30.0, [(0, 59)]),
        (7, 30.0, [(0, 6)]),
        (1, None, [(0, 0)]),
        (10, None, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]),
        (4, 0.2, [(0, 0), (1, 1), (2, 2), (3, 3), (3, 3)]),
    ],
)
def test_clips_of_a_video_are_their_first_and_last_frames(frames: int, fps: float | None, numbers: list) -> None:
    size = MediaSize(width=300, height=300, frames=frames, fps=fps)
    assert VideoClips().frame_numbers(size, 2) == numbers
    plan = VideoClips().plan(size, SIGHT)
    assert [view.frame for view in plan.views] == [frame for clip in numbers for frame in clip]


@pytest.mark.parametrize(
    ("hw", "size", "offsets"),
    [
        ((240, 320), (224, 298), ((0, 0), (0, 37), (0, 74))),
        ((320, 240), (298, 224), ((0, 0), (37, 0), (74, 0))),
        ((200, 207), (224, 231), ((0, 0), (0, 4), (0, 7))),
        ((90, 90), (224, 224), ((0, 0),)),
    ],
)
def test_frames_are_cut_at_both_ends_and_between(hw: tuple, size: tuple, offsets: tuple) -> None:
    media = MediaSize(width=hw[1], height=hw[0], frames=2, fps=1.0)
    plan = VideoClips().plan(media, SIGHT)
    cuts = [(Resize(size, smooth=False), Crop(offset, (224, 224))) for offset in offsets]
    assert [view.steps for view in plan.views] == [cut for cut in cuts for _ in range(2)]
    assert [view.frame for view in plan.views] == [0, 1] * len(offsets)
    alone = VideoClips(crops=1).plan(media, SIGHT).views
    assert [view.steps for view in alone] == [cuts[len(cuts) // 2]] * 2


def test_frames_are_resized_between_nearest_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 230, 3), dtype=np.uint8)
    plan = VideoClips().plan(MediaSize(width=230, height=300, frames=1), SIGHT)
    views = views_of([Image.fromarray(pixels)], plan, "bicubic")
    whole = F.interpolate(torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), size=(292, 224), mode="bilinear")[0]
    wanted = torch.stack([whole[:, top : top + 224] for top in (0, 34, 68) for _ in range(2)])
    assert (views.float() - wanted).abs().max() <= 0.5


def test_a_picture_is_shown_twice_and_cut_at_the_even_pixel() -> None:
    for middle, left in (("down", 1), ("nearest", 2)):
        plan = Fixed(fit="crop", middle=middle).plan(MediaSize(width=227, height=224), SIGHT)
        assert [view.steps[-1] for view in plan.views] == [Crop((0, left), (224, 224))] * 2
        assert not plan.averaged and plan.positions == 1


def test_averages_are_taken_before_the_connector() -> None:
    values = torch.randn(3, 1, 4)
    plan = Plan(views=(), size=(1, 1), blocks=(), averaged=True)
    assert torch.equal(merged_views(Features(values, (1,)), plan).values, values.mean(0, keepdim=True))
    kept = merged_views(Features(values, (1,)), Plan(views=(), size=(1, 1), blocks=()))
    assert torch.equal(kept.values, values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoundClips(clips=0), "0 clips, least 0.025: give at least 1 clip"),
        (lambda: VideoClips(seconds=0.0), "5 clips of 0.0 seconds: give at least 1 clip of some length"),
        (lambda: SoundClips().plan(MediaSize(samples=9, rate=9), SIGHT), "the encoder does not hear"),
        (lambda: SoundClips().plan(MediaSize(width=9, height=9), HEARD), "the medium is no sound"),
        (lambda: IMAGEBIND_HUGE.cells((9, 9)), r"ImageBindVision reads \(224, 224\) views, got \(9, 9\)"),
    ],
)
def test_impossible_clips_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()
