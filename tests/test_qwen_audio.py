"""A system whose signs around a sound are learned rows, and whose Whisper hears a cut spectrogram."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from omniform import cost, index
from omniform.batch import Features
from omniform.connectors.bracketed import Bracketed
from omniform.connectors.linear import Linear
from omniform.connectors.patch_mining import PatchMining
from omniform.encoders.whisper import WHISPER_LARGE_V2
from omniform.geometry import MediaSize, SpecError
from omniform.prompt import Turn

SYSTEM = index.system("qwen-audio")


@pytest.mark.parametrize(("samples", "rows"), [(160, 1), (16000, 25), (16160, 25), (479999, 750), (960000, 750)])
def test_signs_around_a_sound_are_rows_of_it(samples: int, rows: int) -> None:
    assert cost.positions(SYSTEM, "audio", MediaSize(samples=samples, rate=16000)) == rows + 2


def test_learned_rows_stand_around_the_others() -> None:
    torch.manual_seed(0)
    module = Bracketed(inner=Linear()).build(in_dim=6, out_dim=4)
    features = Features(torch.randn(2, 3, 6), (3,))
    out = module(features)
    assert out.grid == (5,)
    assert torch.equal(out.values[:, 1:4], module.inner(features).values)
    assert torch.equal(out.values[:, [0, 4]], module.ends.weight.expand(2, 2, 4))
    with pytest.raises(SpecError, match="Bracketed reads one encoder, but PatchMining needs 2"):
        Bracketed(inner=PatchMining())


def test_a_cut_spectrogram_shows_convolutions_no_silence() -> None:
    torch.manual_seed(0)
    spec = WHISPER_LARGE_V2.shrunk("tiny")
    cut, attended = (spec.but(rows=rows).build().eval() for rows in ("cut", "attended"))
    attended.load_state_dict(cut.state_dict())
    waves = torch.rand(1, 1, 1700) - 0.5
    given, other = cut.normalise(waves), attended.normalise(waves)
    assert (given.spectrogram.shape[2], given.rows) == (10, 5)
    assert torch.equal(given.spectrogram, other.spectrogram[..., :10])
    assert cut(given).grid == attended(other).grid == (5,)
    assert not torch.allclose(cut(given).values, attended(other).values, atol=1e-3)


def test_turns_are_those_of_the_original() -> None:
    turns = (
        Turn("user", (("audio", 0), "what does the person say?")), Turn("assistant", ("Hello.",)),
        Turn("user", ("And then?",)),
    )  # fmt: skip
    text = "".join("<audio></audio>" if p.media is not None else p.text for p in SYSTEM.prompt.render(turns))
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nAudio 1:<audio></audio>\n"
        "what does the person say?<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\n"
        "And then?<|im_end|>"
    )


def test_each_stage_leaves_the_other_half_still() -> None:
    tower, words = (cost.learning(SYSTEM, stage) for stage in SYSTEM.stages)
    assert tower == {"audio.encoder": 634864640, "audio.connector": 5255168}
    assert list(words) == ["backbone"]


def test_a_configuration_gives_its_sizes() -> None:
    audio = {"n_state": 60, "n_layer": 3, "n_head": 4, "n_mels": 8, "n_ctx": 24, "avg_pool": False}
    small: Any = index.release("qwen-audio", {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 70,
        "layer_norm_epsilon": 1e-6, "rotary_emb_base": 5000, "audio": audio,
    })  # fmt: skip
    backbone, encoder = small.backbone, small.continuous("audio").encoder
    assert (backbone.mlp_dim, backbone.kv_heads, backbone.norm_eps, backbone.rope_theta) == (48, 4, 1e-6, 5000)
    assert (encoder.width, encoder.mlp_dim, encoder.pool, encoder.rows) == (60, 240, 1, "cut")
