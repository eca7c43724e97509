"""A system that counts its sounds and pools Whisper's rows, against transformers' class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor

from omniform import cost, index
from omniform.batch import Tree
from omniform.data.document import Document, Media, Text
from omniform.data.packing import pack
from omniform.data.processor import Processor
from omniform.data.tokenizer import train_tokenizer
from omniform.encoders.audio_module import log_mel
from omniform.geometry import MediaSize, SpecError
from omniform.inference.engine import Engine
from omniform.prompt import Turn
from omniform.views.windows import Windows

SYSTEM = index.system("qwen2-audio")
CONTROL = ("<|im_start|>", "<|im_end|>", *SYSTEM.special_tokens)


@pytest.mark.parametrize("samples", [100, 481, 1600, 16000, 16001, 16161, 159999, 480000, 700000])
def test_rows_are_those_of_the_released_processor(samples: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=128)
    wave = np.zeros(max(samples, 480), np.float32)
    columns = extractor(wave, sampling_rate=16000, return_attention_mask=True)["attention_mask"].sum()
    rows = ((columns - 1) // 2 + 1 - 2) // 2 + 1
    assert cost.positions(SYSTEM, "audio", MediaSize(samples=samples, rate=16000)) == rows


def test_sounds_are_counted_through_the_conversation() -> None:
    turns = (
        Turn("user", (("audio", 0), "Who is it?")), Turn("assistant", ("A duck.",)),
        Turn("user", ("And {number} here?", ("audio", 1), ("audio", 2))),
    )  # fmt: skip
    text = "".join("<AUDIO>" if p.media is not None else p.text for p in SYSTEM.prompt.render(turns))
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Audio 1: <|audio_bos|><AUDIO><|audio_eos|>\nWho is it?<|im_end|>\n<|im_start|>assistant\nA duck.<|im_end|>\n"
        "<|im_start|>user\nAnd {number} here?Audio 2: <|audio_bos|><AUDIO><|audio_eos|>\n"
        "Audio 3: <|audio_bos|><AUDIO><|audio_eos|>\n<|im_end|>\n"
    )


def test_a_length_becomes_a_multiple() -> None:
    sight = SYSTEM.continuous("audio").sight()
    lengths = [Windows(most=1, multiple=160).plan(MediaSize(samples=n, rate=16000), sight).size[1] for n in (800, 801)]
    assert lengths == [800, 960]
    with pytest.raises(SpecError, match="multiple 0: give at least 1 window, no negative time and at least 1 sample"):
        Windows(multiple=0)


def made() -> tuple[Engine, Any]:
    """A tiny system, and transformers' class with its weights."""
    words = train_tokenizer(["what do you hear? a duck", *SYSTEM.prompt.literals()], CONTROL, 300)
    system = SYSTEM.shrunk("tiny").but({"backbone.vocab": words.size})
    torch.manual_seed(0)
    model = system.build().eval()
    encoder: Any = system.continuous("audio").encoder
    theirs = Qwen2AudioForConditionalGeneration(
        Qwen2AudioConfig(
            audio_config=encoder.config(),
            text_config={**system.backbone.config(), "model_type": "qwen2"},
            audio_token_id=words.id_of("<|AUDIO|>"),
        )
    ).eval()
    stream = model.stream("audio")
    theirs.model.audio_tower.load_state_dict(stream.encoder.model.state_dict())
    theirs.model.multi_modal_projector.linear.load_state_dict(stream.connector.layer.state_dict())
    theirs.model.language_model.load_state_dict(model.backbone.lm.model.state_dict())
    theirs.lm_head.load_state_dict(model.backbone.lm.lm_head.state_dict())
    return Engine(model, Processor(system, words)), theirs


def test_the_whole_model_equals_transformers() -> None:
    engine, theirs = made()
    waves = [np.random.default_rng(n).standard_normal(n).astype(np.float32) * 0.1 for n in (2000, 5121)]
    segments = [Text("what?"), *(Media("audio", (w[:, None], 16000)) for w in waves), Text("and?")]
    sample = engine.processor.sample(Document(tuple(segments)), answer_next=True)
    encoder = engine.model.stream("audio").encoder
    padded = torch.stack(
        [torch.nn.functional.pad(torch.from_numpy(w), (0, encoder.spec.window - len(w))) for w in waves]
    )
    heard = log_mel(padded, encoder.spec.mels, 16000)
    columns = [-(-len(w) // 160) for w in waves]
    mask = torch.arange(heard.shape[2]) < torch.tensor(columns)[:, None]
    ids = torch.from_numpy(sample.ids.copy())
    for item in sample.media:
        ids[torch.from_numpy(item.at)] = theirs.config.audio_token_id
    with torch.no_grad():
        wanted = theirs(
            input_ids=ids[None], input_features=heard, feature_attention_mask=mask.long(),
            attention_mask=torch.ones_like(ids)[None],
        ).logits[0]  # fmt: skip
        batch = pack([sample], engine.load)
        found = engine.model.backbone.logits(engine.model.hidden(batch))
    assert [len(item.at) for item in sample.media] == [((c - 1) // 2 + 1 - 2) // 2 + 1 for c in columns]
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert batch.tree == Tree.of([len(sample)])


def test_a_configuration_gives_its_sizes() -> None:
    small = index.release("qwen2-audio", {"audio_config": {"d_model": 60, "encoder_layers": 3}, "text_config": {}})
    encoder: Any = small.continuous("audio").encoder
    assert (encoder.width, encoder.layers, encoder.rows, encoder.pool) == (60, 3, "attended", 2)
    assert small.backbone == SYSTEM.backbone
