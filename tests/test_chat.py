"""A chat gives what the whole document gives from scratch, and reads only what is new."""

from dataclasses import dataclass

import pytest
import torch
from engines import BACKBONES, GREEDY, SAMPLED, make_engine, picture

from omniform.data.document import Document, Media, Text
from omniform.geometry import SpecError
from omniform.inference.chat import Chat

TURNS = (("what", 0), ("and the", None), ("red", 1), ("blue", None))


@pytest.fixture(scope="module")
def engine():
    return make_engine()


@dataclass
class Reading:
    """New positions that each forward call of the backbone read."""

    counts: list


@pytest.fixture
def reading(engine, monkeypatch):
    seen, backbone = Reading([]), engine.model.backbone
    forward, step = backbone.forward, backbone.step
    monkeypatch.setattr(backbone, "forward", lambda x, *a: seen.counts.append(len(x)) or forward(x, *a))
    monkeypatch.setattr(backbone, "step", lambda x, *a: seen.counts.append(x.shape[1]) or step(x, *a))
    return seen


@pytest.mark.parametrize("backbone", ["llama", "window", "state"])
@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_chat_equals_the_whole_document_from_scratch(config, backbone):
    engine = make_engine(BACKBONES[backbone])
    chat = Chat(engine, config, system="the picture")
    for number, (words, seed) in enumerate(TURNS):
        before = chat.document
        answer = chat.ask(words, **({} if seed is None else {"image": picture(seed)}))
        asked = Document((*before.segments, *([] if seed is None else [Media("image", picture(seed))]), Text(words)))
        (scratch,) = engine.generate([asked], config)
        assert answer.tokens == scratch.tokens
        assert answer.log_probs == pytest.approx(scratch.log_probs, abs=1e-5)
        assert chat.document.segments[-1] == Text(answer.text, "assistant")
        assert len([s for s in chat.document.segments if s.role == "assistant"]) == number + 1


def test_a_turn_costs_only_its_new_positions(engine, reading, monkeypatch):
    # words that are tokenized again as they were generated
    said = engine.processor.tokenizer.encode(" red circle</s>")[0]
    chosen = iter([*said, *said])
    monkeypatch.setattr(
        "omniform.inference.engine.choose", lambda *a, **k: (torch.tensor([next(chosen)]), torch.zeros(1))
    )
    chat = Chat(engine)
    assert chat.ask("what", image=picture(0)).text == "red circle"
    first = reading.counts.copy()
    assert first == [len(engine.sample(Document.ask("what", image=picture(0)))), *[1] * (len(said) - 1)]
    chat.ask("colour", image=picture(1))
    whole = len(engine.sample(chat.document))
    assert reading.counts[len(first)] == whole - sum(first)


def test_an_abandoned_turn_leaves_no_trace(engine):
    chat, other = Chat(engine, SAMPLED), Chat(engine, SAMPLED)
    for one in (chat, other):
        one.ask("what", image=picture(0))
    before = chat.document
    stream = chat.stream(Media("image", picture(1)), Text("left"))
    next(stream)
    stream.close()
    assert chat.document == before
    with pytest.raises(SpecError):
        chat.ask("left", audio=b"")
    assert chat.ask("the box").tokens == other.ask("the box").tokens
    assert chat.document == other.document
