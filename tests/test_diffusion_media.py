"""Diffusion of video and of sound: sizes as published, conditions as transformers', media as diffusers makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AudioLDMPipeline, TextToVideoSDPipeline
from transformers import ClapTextConfig, ClapTextModelWithProjection

from omniform import index
from omniform.connectors.query_transformer import QueryTransformer
from omniform.data.document import Media
from omniform.data.media import frames_of, size_of
from omniform.decoders.regressed import Regressed
from omniform.decoders.text import Text
from omniform.diffusion.audio_ldm import AUDIO_LDM_L, AUDIO_LDM_S, AudioLdm
from omniform.diffusion.text_to_video import ZEROSCOPE_576W, TextToVideo
from omniform.frozen import FrozenMap
from omniform.geometry import SpecError
from omniform.training.weights import load_parts
from omniform.writing import Diffusion

VIDEO, SOUND = ZEROSCOPE_576W.shrunk("tiny"), AUDIO_LDM_L.shrunk("tiny")


def built(spec: Diffusion) -> Any:
    torch.manual_seed(0)
    return spec.build().eval()


def made(module: Any, seed: int, steps: int = 2) -> Any:
    """One medium of "a cat"."""
    condition, nothing = module.condition(["a cat"]), module.condition([""])
    return module.render(condition, nothing, torch.Generator().manual_seed(seed), 3.0, steps)[0]


def pipeline_of(module: Any) -> Any:
    parts = {name: getattr(module, name) for name in ("vae", "text_encoder", "unet", "scheduler")}
    if module.spec.modality == "audio":
        whole: Any = AudioLDMPipeline(**parts, tokenizer=None, vocoder=module.vocoder)
    else:
        whole = TextToVideoSDPipeline(**parts, tokenizer=None)
    whole.set_progress_bar_config(disable=True)
    return whole


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "unet"),
    [(ZEROSCOPE_576W, 1411233860), (AUDIO_LDM_L, 739139080), (AUDIO_LDM_S, 185036552)],
    ids=["zeroscope", "audioldm-l", "audioldm-s"],
)
def test_full_sizes_are_those_published(spec: Any, unet: int) -> None:
    """1.41, 0.739 and 0.185 billion: counted by diffusers and transformers from the declared configurations."""
    with torch.device("meta"):
        module = spec.build()
    assert sum(p.numel() for p in module.unet.parameters()) == unet == spec.unet_params()
    assert sum(p.numel() for p in module.parameters()) == spec.num_params()


def test_conditions_and_media_have_the_published_sizes() -> None:
    assert (ZEROSCOPE_576W.positions, ZEROSCOPE_576W.width, ZEROSCOPE_576W.size) == (77, 1024, (320, 576))
    assert (AUDIO_LDM_L.positions, AUDIO_LDM_L.width, AUDIO_LDM_L.size) == (1, 512, (1, 81920))
    assert AUDIO_LDM_L.hop == 160


# --- video -------------------------------------------------------------------------------------------------------


def test_a_video_is_its_frames() -> None:
    module = built(VIDEO)
    videos = [made(module, seed) for seed in (1, 1, 2)]
    assert [len(video) for video in videos] == [3, 3, 3]
    same, other = (
        all(a.tobytes() == b.tobytes() for a, b in zip(videos[0], video, strict=True)) for video in videos[1:]
    )
    assert same and not other
    medium = Media("video", videos[0], "assistant")
    assert (size_of(medium).frames, size_of(medium).hw) == (3, VIDEO.size)
    assert frames_of(medium)[2].tobytes() == videos[0][2].tobytes()


def test_videos_are_those_of_the_pipeline() -> None:
    module = built(VIDEO)
    wanted = pipeline_of(module)(
        prompt_embeds=module.condition(["a cat"]).detach(), negative_prompt_embeds=module.condition([""]).detach(),
        guidance_scale=3.0, num_inference_steps=3, generator=torch.Generator().manual_seed(5), height=16, width=24,
        num_frames=3, output_type="pil",
    ).frames[0]  # fmt: skip
    for a, b in zip(made(module, 5, 3), wanted, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_noise_in_videos_is_told_of_all_frames() -> None:
    module = built(VIDEO)
    views = torch.randint(0, 256, (6, 3, *VIDEO.size), dtype=torch.uint8)
    assert module.latents(views).shape == (2, 4, 3, 8, 12)
    condition = module.condition(["a", "b"])

    def losses(seen: torch.Tensor) -> list[float]:
        torch.manual_seed(1)
        return module.noise_loss(condition, seen).tolist()

    before = losses(views)
    assert len(before) == 2 and min(before) > 0
    for frame in range(3):
        changed = views.clone()
        changed[frame] = 255 - changed[frame]
        first, second = losses(changed)
        assert abs(first - before[0]) > 1e-6 and second == pytest.approx(before[1], rel=1e-6)


# --- sound -------------------------------------------------------------------------------------------------------


def test_a_sound_is_samples_and_their_rate() -> None:
    module = built(SOUND)
    (first, rate), (again, _), (other, _) = (made(module, seed) for seed in (1, 1, 2))
    assert rate == 16000 and first.shape == (320,) and first.dtype == np.float32
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert size_of(Media("audio", (first, rate), "assistant")).seconds == 0.02


def test_sounds_are_those_of_the_pipeline() -> None:
    module = built(SOUND)
    wanted = pipeline_of(module)(
        prompt_embeds=module.condition(["a cat"])[:, 0].detach(),
        negative_prompt_embeds=module.condition([""])[:, 0].detach(),
        guidance_scale=3.0, num_inference_steps=3, generator=torch.Generator().manual_seed(5), audio_length_in_s=0.02,
    ).audios[0]  # fmt: skip
    assert np.array_equal(made(module, 5, 3)[0], wanted)


def test_the_condition_is_claps_embedding_at_unit_length() -> None:
    module = built(SOUND)
    reference = ClapTextModelWithProjection(ClapTextConfig(**SOUND.text_config())).eval()
    reference.load_state_dict(module.text_encoder.state_dict())
    wanted = reference(module.words(["a bell", "rain"])).text_embeds
    found = module.condition(["a bell", "rain"])
    assert found.shape == (2, 1, 12)
    assert torch.allclose(found[:, 0], wanted / wanted.norm(dim=-1, keepdim=True), atol=1e-6)


def test_noise_in_sounds_is_not_told_of_waveforms() -> None:
    with pytest.raises(ValueError, match=r"AudioLDM tells the noise of spectrograms, but views are \(1, 1, 320\)"):
        built(SOUND).noise_loss(torch.zeros(1, 1, 12), torch.zeros(1, 1, 320))


def test_without_a_tokenizer_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"AudioLDM cannot read 'a bell': its tokenizer lies in the directory"):
        built(SOUND.but(tokens="released")).condition(["a bell"])


# --- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [VIDEO, SOUND.but(scale=0.9)], ids=["video", "audio"])
def test_weights_come_from_a_directory_of_diffusers(tmp_path: Path, spec: Any) -> None:
    module = built(spec)
    pipeline_of(module).save_pretrained(tmp_path)
    head = QueryTransformer(positions=1).shrunk("tiny")
    form = Regressed(tokens=("<a>",), head=head, diffusion=spec.but(scale=1.0) if spec is not VIDEO else spec)
    system = index.system("llava-1.5").shrunk("tiny")
    model = system.but(outputs=FrozenMap({"text": Text(), spec.modality: form}), stages=()).build()
    load_parts(model, {f"{spec.modality}.diffusion": str(tmp_path)})
    loaded = model.part(f"{spec.modality}.diffusion").eval()
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in module.state_dict().items())
    assert loaded.vae.config.scaling_factor == module.vae.config.scaling_factor
    assert torch.equal(loaded.condition(["a"]), module.condition(["a"]))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TextToVideo(rows=300), "24 frames of 300x576 pixels: sides must divide into latents of 64 pixels"),
        (lambda: AudioLdm(channels=(256, 500)), r"channels \[500\] do not divide into 32 groups"),
        (lambda: AudioLdm(rates=(5, 4)), r"vocoder rates \(5, 4\), kernels \(16, 16, 8, 4, 4\): give as many"),
        (lambda: AudioLdm(seconds=0.001), "0.001 seconds at 16000 are no column of latents; make it longer"),
    ],
)
def test_what_cannot_work_is_refused(make: Any, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        make()
