"""Modalities with encoders of their own before one connector: rows, parts, cost, and ranks that stay in step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from omniform import index
from omniform.batch import Batch, MediaBatch, Tree
from omniform.connectors.linear import Linear
from omniform.connectors.mlp import Mlp
from omniform.cost import parameters, training_memory
from omniform.cost.flops import prefill_flops
from omniform.encoders.imagebind_audio import IMAGEBIND_HUGE_AUDIO
from omniform.encoders.imagebind_vision import IMAGEBIND_HUGE
from omniform.facts import facts
from omniform.geometry import MediaSize, SpecError
from omniform.model import Lmm
from omniform.spec import Continuous, Learn, Shared, Stage, System
from omniform.views.clips import SoundClips, VideoClips
from omniform.views.fixed import Fixed
from omniform.weights.layout import place_of

IMAGE, AUDIO = IMAGEBIND_HUGE.shrunk("tiny"), IMAGEBIND_HUGE_AUDIO.shrunk("tiny")
BASE = index.system("llava-1.5").shrunk("tiny")


def system(connector: Any = None, audio: Any = AUDIO) -> System:
    entry = BASE.continuous("image")
    image = Continuous(
        encoder=IMAGE, connector=connector or Linear(), views=Fixed(fit="crop", middle="nearest"), fusion=entry.fusion
    )
    video = Shared(input="image", views=VideoClips(clips=2))
    media = dict.fromkeys(("image", "video", "audio"), "{media}")
    inputs = {"image": image, "video": video, "audio": Shared(input="image", views=SoundClips(), encoder=audio)}
    return replace(BASE, inputs=inputs, stages=(), prompt=replace(BASE.prompt, media=media))


def medium(made: System, modality: str) -> MediaBatch:
    """A picture, a video of several clips, or a sound of three."""
    size = MediaSize(samples=40000, rate=16000) if modality == "audio" else MediaSize(width=40, height=30, frames=4)
    plan = made.plan(modality, size)
    encoder = made.continuous(modality).encoder
    views = torch.rand(len(plan.views), *encoder.channels, *plan.size)
    views = views - 0.5 if modality == "audio" else (255 * views).to(torch.uint8)
    return MediaBatch((views,), (plan,), torch.arange(1, 2))


def batch(made: System, modality: str) -> Batch:
    ids = torch.arange(4) + 3
    return Batch(
        ids, torch.arange(4), Tree.of([4]), {modality: medium(made, modality)}, torch.tensor([2]), torch.tensor([5]),
        torch.ones(1),
    )  # fmt: skip


@torch.no_grad()
def test_each_modality_goes_through_its_encoder_and_the_one_connector() -> None:
    torch.manual_seed(0)
    made = system(Mlp())
    model = Lmm(made).eval()
    connector = model.part("image.connector")
    for modality, clips in (("image", 1), ("video", 6), ("audio", 3)):
        reader, given = model.reader(modality), medium(made, modality)
        features = reader.encoder(reader.encoder.normalise(given.views[0]))
        assert len(features.values) == clips
        whole = replace(features, values=features.values.mean(0, keepdim=True))
        row = connector(whole).values[0]
        assert torch.allclose(model.stream(modality)(given, reader), row, atol=1e-6)
        embeds, _ = model.embed(replace(batch(made, modality), media={modality: given}))
        assert torch.allclose(embeds[1:2], row, atol=1e-6)


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
def test_encoders_that_read_nothing_stay_in_step(modality: str) -> None:
    made = system()
    model = Lmm(made).train()
    model.backbone.requires_grad_(False)
    loss = model(batch(made, modality))["text"]
    loss.total.backward()
    used = made.reader(modality)
    for name in ("image", "audio"):
        for path, parameter in model.parameters_of(f"{name}.encoder"):
            assert parameter.grad is not None, path
            assert bool(parameter.grad.abs().max() > 0) == (name == used), path
    assert all(p.grad.abs().max() > 0 for _, p in model.parameters_of("image.connector"))


def test_a_shared_encoder_is_a_part_and_a_layer_of_the_release() -> None:
    made = system()
    assert {"image.encoder", "audio.encoder", "image.connector", "image.fusion"} <= set(made.parts())
    assert "audio.connector" not in made.parts()
    assert parameters(made)["audio.encoder"] == sum(p.numel() for p in Lmm(made).part("audio.encoder").parameters())
    layout = replace(made.layout, rules=(("bind.", "inputs.image.encoder."), ("bind.", "inputs.audio.encoder.")))
    place = place_of("inputs.audio.encoder.stem_norm.weight", replace(made, layout=layout))
    assert place.key == "bind.modality_preprocessors.audio.rgbt_stem.norm_layer.weight"
    assert facts(made).modality_encoder == ("ImageBind",)


def test_cost_counts_encoders_apart_and_the_connector_as_one() -> None:
    made = system()
    sizes = [("image", MediaSize(width=9, height=9)), ("audio", MediaSize(samples=8000, rate=16000))]
    found = prefill_flops(made, sizes, 5)
    assert found["image.encoder"] == 2 * IMAGE.flops(IMAGE.size)
    assert found["audio.encoder"] == 3 * AUDIO.flops(AUDIO.size)
    one = Linear().flops((1,), in_dim=IMAGE.dim, out_dim=made.backbone.dim)
    assert found["image.connector"] == 2 * one


def test_memory_of_a_shared_encoder_is_known() -> None:
    made = system()
    learn = (Learn(part="audio.encoder", lr=1e-3),)
    stage = Stage(name="hear", learn=learn, data="tones", batch=1)
    none, some = (training_memory(made, stage, 8, views={"audio": n}).activations for n in (0, 1))
    values = AUDIO.flops(AUDIO.size) // AUDIO.dim + Linear().flops((1,), AUDIO.dim, 64) // 64
    assert (some - none) % values == 0 and some > none


def test_shrinking_keeps_encoders_beside_each_other() -> None:
    whole = replace(
        system(), inputs={**system().inputs, "image": replace(system().continuous("image"), encoder=IMAGEBIND_HUGE),
                          "audio": Shared(input="image", views=SoundClips(), encoder=IMAGEBIND_HUGE_AUDIO)},
    )  # fmt: skip
    for size in ("tiny", "nano"):
        small = whole.shrunk(size)
        assert small.continuous("audio").encoder == IMAGEBIND_HUGE_AUDIO.shrunk(size)
        assert small.continuous("audio").encoder.dim == small.continuous("image").encoder.dim


def test_encoders_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecError, match=r"ImageBindAudio gives audio features of widths \(9,\), but the connector of"):
        system(audio=AUDIO.but(out_dim=9))
    with pytest.raises(SpecError, match="ImageBindVision encodes image, but stands at input 'audio'"):
        system(audio=IMAGE)
