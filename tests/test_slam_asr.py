"""A system that writes down speech: rows of each encoder, its prompt, what its recipes say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import HubertConfig, HubertModel

from omniform import cost, index
from omniform.encoders.hubert import HUBERT_XLARGE, WAVLM_LARGE
from omniform.geometry import MediaSize, SpecError
from omniform.prompt import Turn
from omniform.systems.slam_asr import from_release

SYSTEM = index.system("slam-asr")


def rows(name: str, samples: int) -> int:
    return cost.positions(index.system(name), "audio", MediaSize(samples=samples, rate=16000))


@pytest.mark.parametrize(("samples", "expected"), [(800, 1), (1680, 1), (8400, 5), (160000, 99), (480000, 299)])
def test_five_frames_of_20_ms_are_a_row(samples: int, expected: int) -> None:
    assert rows("slam-asr", samples) == rows("slam-asr:wavlm", samples) == expected
    assert rows("slam-asr:whisper", samples) == 300  # filled up to 30 seconds


def test_frames_are_those_of_the_convolutions() -> None:
    assert HUBERT_XLARGE.shortest == 400
    lengths = [HUBERT_XLARGE.cells((1, n)) for n in (400, 719, 720, 16000, 480000)]
    assert lengths == [(1,), (1,), (2,), (49,), (1499,)]
    with pytest.raises(SpecError, match="hears views of 1 x 400 to 960000 samples"):
        HUBERT_XLARGE.cells((1, 399))


@pytest.mark.parametrize("spec", [HUBERT_XLARGE, WAVLM_LARGE], ids=lambda spec: spec.title)
def test_features_are_transformers_of_a_normed_waveform(spec: Any) -> None:
    torch.manual_seed(0)
    module = spec.shrunk("tiny").build().eval()
    waves = torch.rand(2, 1, 3000) - 0.3
    heard = module.normalise(waves)
    assert torch.allclose(heard.mean(1), torch.zeros(2), atol=1e-6)
    assert torch.allclose(heard.var(1, correction=0), torch.ones(2), atol=1e-3)
    assert torch.equal(module(heard).values, module.model(heard).last_hidden_state)


def test_sizes_are_those_of_the_published_configuration() -> None:
    published = HubertConfig(
        hidden_size=1280, num_hidden_layers=48, num_attention_heads=16, intermediate_size=5120, conv_bias=True,
        feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = sum(p.numel() for p in HubertModel(published).parameters())
    assert theirs - 1280 == HUBERT_XLARGE.num_params()  # the row of masked frames stands in for nothing here


def test_the_sound_stands_before_the_sign_of_the_begin() -> None:
    turns = (Turn("user", (("audio", 0), "Transcribe speech to text. ")), Turn("assistant", ("a duck",)))
    pieces = SYSTEM.prompt.render(turns)
    text = "".join("<audio>" if p.media is not None else p.text for p in pieces)
    assert text == "<audio><s>USER: Transcribe speech to text. \n ASSISTANT:a duck</s>"
    assert "".join(p.text for p in pieces if p.learn) == "a duck</s>"


def test_recipes_name_encoder_and_connector() -> None:
    assert from_release({}).inputs == SYSTEM.inputs
    wavlm = from_release({"encoder_name": "wavlm", "encoder_projector_ds_rate": 4}).continuous("audio")
    assert (wavlm.encoder, wavlm.connector.fold) == (WAVLM_LARGE, 4)  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match="encoder_projector 'q-former' is another connector; this one is 'linear'"):
        from_release({"encoder_projector": "q-former"})
    with pytest.raises(SpecError, match="encoder_name 'beats' is none of hubert, wavlm, whisper"):
        from_release({"encoder_name": "beats"})


def test_only_the_connector_learns() -> None:
    assert [cost.learning(SYSTEM, stage) for stage in SYSTEM.stages] == [{"audio.connector": 21501952}]
