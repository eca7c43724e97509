"""A system that hears: positions as reckoned and as read, its prompt, its adapters, its stages' parts."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch

from omniform import cost, index
from omniform.cli.main import app
from omniform.data.document import Document, Media, Text
from omniform.data.loader import read_views
from omniform.data.processor import Processor
from omniform.data.tokenizer import train_tokenizer
from omniform.data.tones import RATE, Tones
from omniform.geometry import MediaSize, SpecError
from omniform.prompt import Turn
from omniform.systems.salmonn import from_release

SYSTEM = index.system("salmonn")
TURNS = (
    Turn("user", (("audio", 0), "What do you hear?")),
    Turn("assistant", ("A duck.",)),
)


@pytest.mark.parametrize(("seconds", "heard"), [(0.3, 16000), (10, 160000), (30, 480000), (95, 480000)])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_positions_are_those_that_the_processor_gives(seconds: float, heard: int, rate: int) -> None:
    samples = round(seconds * rate)
    size = MediaSize(samples=samples, rate=rate)
    assert cost.positions(SYSTEM, "audio", size) == 88
    processor = Processor(SYSTEM, train_tokenizer(SYSTEM.prompt.literals(), (), 300))
    media = Media("audio", (np.zeros((samples, 2), np.float32), rate))
    sample = processor.sample(Document((media, Text("What do you hear?"))), answer_next=True)
    assert [len(item.at) for item in sample.media] == [88]
    assert sample.media[0].plan.size == (1, heard)
    if rate == 16000:
        assert read_views(sample.media[0], processor.system).shape == (1, 1, heard)


@pytest.mark.parametrize("seconds", ["10", "95"])
def test_the_command_line_reckons_seconds(
    seconds: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["omniform", "cost", "salmonn", "--audio", seconds, "--text", "32", "--json"])
    with contextlib.suppress(SystemExit):
        app()
    found = json.loads(capsys.readouterr().out)
    (medium,) = found["media"]
    assert (medium["samples"], medium["rate"]) == (int(seconds) * RATE, RATE)
    assert (medium["views"], medium["positions"], medium["heard"]) == (1, 88, min(int(seconds), 30))
    assert found["positions"] == 120


def test_the_prompt_is_literal() -> None:
    pieces = SYSTEM.prompt.render(TURNS)
    text = "".join("<audio>" if p.media is not None else p.text for p in pieces)
    assert text == "USER: <Speech><audio></Speech> What do you hear?\nASSISTANT: A duck.</s>"
    assert "".join(p.text for p in pieces if p.learn) == " A duck.</s>"


def test_what_learns_is_what_the_paper_counts() -> None:
    learns = [sum(cost.learning(SYSTEM, stage).values()) for stage in SYSTEM.stages]
    idle = 4 * 769 * 768  # of a single query's attention to itself
    assert learns == [26779392 - idle + 6553600] * 2 + [6553600]


def test_adapters_begin_at_nothing_and_scale() -> None:
    torch.manual_seed(0)
    model = SYSTEM.shrunk("tiny").build().eval()
    layer = model.backbone.lm.model.layers[1].self_attn.v_proj
    adapter = model.part("audio.fusion").adapters.get_submodule("model.layers.1.self_attn.v_proj")
    x = torch.randn(3, layer.in_features)
    plain = x @ layer.weight.T
    assert torch.equal(layer(x), plain)
    adapter.lora_B["default"].weight.data.normal_()
    added = x @ adapter.lora_A["default"].weight.T @ adapter.lora_B["default"].weight.T * 4.0
    assert torch.allclose(layer(x), plain + added, atol=1e-5)
    assert not [name for name in model.backbone.state_dict() if "lora" in name]
    model.part("audio.fusion").detach()
    assert torch.equal(layer(x), plain)


def test_adapters_need_projections_of_their_own() -> None:
    with pytest.raises(
        SpecError, match="adapts q_proj, v_proj, but Mpt has no such linear layers; it names none: use Splice"
    ):
        SYSTEM.but({"backbone": index.system("llava:7b-mpt").backbone})


def test_a_configuration_gives_its_sizes() -> None:
    assert from_release({}).inputs == SYSTEM.inputs
    wide = from_release({"second_per_window": 0.5, "second_stride": 0.25, "lora": {"r": 4, "alpha": 16}})
    audio = wide.continuous("audio")
    assert (audio.connector.kernel, audio.connector.stride) == (25, 12)  # type: ignore[attr-defined]
    assert wide.plan("audio", MediaSize(samples=160000, rate=16000)).positions == 123
    with pytest.raises(SpecError, match="hold 0 cells of 20 ms"):
        from_release({"second_per_window": 0.001})


def test_tones_are_the_same_each_time() -> None:
    first, second = Tones(limit=7), Tones(limit=7)
    assert len(first) == 14
    assert [d.media[0].key for d in map(first.__getitem__, range(14))] == [second[i].media[0].key for i in range(14)]
    assert first.group(4) == first.group(5) != first.group(6)
    samples, rate = first[0].media[0].source
    assert rate == RATE and 8000 <= len(samples) <= 24000 and 0.1 <= np.abs(samples).max() <= 0.6
