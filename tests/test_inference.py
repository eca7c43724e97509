"""The engine: an answer is the same alone, in any batch, and streamed; and equal to full recomputation."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from engines import BACKBONES, GREEDY, MIXED_ENDS, NEW, SAMPLED, TOKENIZER, documents, make_engine, picture
from transformers import AutoModelForCausalLM

from omniform import index
from omniform.data.document import Document, Text
from omniform.data.media import MediaError
from omniform.data.packing import pack
from omniform.data.processor import TooLong
from omniform.geometry import SpecError
from omniform.inference.engine import NothingToAnswer
from omniform.inference.rows import Ending
from omniform.inference.sampling import GenerationConfig


@pytest.fixture(scope="module", params=BACKBONES)
def any_engine(request):
    return make_engine(BACKBONES[request.param])


@pytest.fixture(scope="module")
def engine():
    return make_engine()


@pytest.mark.parametrize("config", [GREEDY, SAMPLED, MIXED_ENDS], ids=["greedy", "sampled", "mixed ends"])
def test_batched_equals_single(any_engine, config):
    asked = documents()
    together = any_engine.generate(asked, config)
    for document, answer in zip(asked, together, strict=True):
        (alone,) = any_engine.generate([document], config)
        assert (alone.tokens, alone.text, alone.finish) == (answer.tokens, answer.text, answer.finish)
        assert answer.log_probs == pytest.approx(alone.log_probs, abs=1e-5)
    assert len({a.tokens for a in together}) > 15
    if config is MIXED_ENDS:
        assert len({len(a.tokens) for a in together}) > 5 and {a.finish for a in together} == {"stop", "length"}


def test_small_batches_equal_large_ones(engine):
    asked = documents()
    small = make_engine(positions=100)
    assert [a.tokens for a in small.generate(asked, SAMPLED)] == [a.tokens for a in engine.generate(asked, SAMPLED)]


def test_cached_decoding_equals_full_recomputation(any_engine, monkeypatch):
    backbone, seen = any_engine.model.backbone, []
    logits = backbone.logits
    monkeypatch.setattr(backbone, "logits", lambda hidden: seen.append(logits(hidden)) or seen[-1])
    document = documents()[-2]
    sample = any_engine.sample(document)
    (answer,) = any_engine.generate([document], GREEDY)
    decoded = torch.cat(seen)
    batch = pack([sample.followed_by(answer.tokens[:-1])], any_engine.load)
    with torch.inference_mode():
        full = logits(any_engine.model.hidden(batch)[len(sample) - 1 :])
    assert decoded.shape == full.shape == (NEW, any_engine.model.system.backbone.vocab)
    assert (decoded - full).abs().max() < 1e-5
    own = full.log_softmax(-1)[torch.arange(NEW), list(answer.tokens)]
    assert answer.log_probs == pytest.approx(own.tolist(), abs=1e-5)


@pytest.mark.parametrize("extra", [{}, {"repetition_penalty": 1.5}, {"min_new_tokens": NEW}])
def test_words_alone_are_answered_as_transformers_does(engine, extra):
    document = Document.ask("the red circle is")
    (answer,) = engine.generate([document], replace(GREEDY, **extra))
    lm = AutoModelForCausalLM.from_config(engine.model.backbone.lm.config, attn_implementation="sdpa").eval()
    lm.load_state_dict(engine.model.backbone.lm.state_dict())
    ids = torch.from_numpy(engine.sample(document).ids)[None]
    theirs = lm.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=1,
        pad_token_id=2,
        **extra,
    )
    assert list(answer.tokens) == theirs[0, ids.shape[1] :].tolist()


def test_media_and_trunks_are_read_once(engine, monkeypatch):
    embedded = Counter()
    embed, encoder = engine.model.backbone.embed, engine.model.inputs["image"].encoder
    monkeypatch.setattr(engine.model.backbone, "embed", lambda ids: embedded.update(ids=ids.numel()) or embed(ids))
    handle = encoder.register_forward_hook(lambda _m, inputs, _o: embedded.update(views=len(inputs[0])))
    asked = [Document.ask(f"colour {i}", image=picture(0)) for i in range(6)]
    engine.generate(asked, GenerationConfig(max_new_tokens=1))
    handle.remove()
    lengths = [len(engine.sample(d)) for d in asked]
    own = [len(engine.processor.tokenizer.encode(f"{i} ASSISTANT:")[0]) for i in range(6)]
    assert embedded["views"] == 1
    assert embedded["ids"] == lengths[0] - own[0] + sum(own)


# --- ends --------------------------------------------------------------------------------------------------------


def test_length_ends(engine):
    (answer,) = engine.generate([Document.ask("the")], GenerationConfig(max_new_tokens=3))
    assert (len(answer.tokens), answer.finish) == (3, "length")


def test_an_end_token_ends_and_is_not_written(engine, monkeypatch):
    (free,) = engine.generate([Document.ask("the")], GREEDY)
    third = free.tokens[2]
    monkeypatch.setattr(engine.processor.tokenizer, "eos_id", third)
    count = free.tokens.index(third) + 1
    (answer,) = engine.generate([Document.ask("the")], GREEDY)
    assert answer.tokens == free.tokens[:count] and answer.finish == "stop"
    assert answer.text == engine.processor.tokenizer.decode(free.tokens[: count - 1])
    (later,) = engine.generate([Document.ask("the")], replace(GREEDY, min_new_tokens=10))
    assert len(later.tokens) > 10 and third not in later.tokens[:10]


def test_the_context_ends(engine):
    context = engine.model.system.backbone.context
    document = Document.ask("?" * (context - 2 - len(engine.sample(Document.ask("?")))))
    assert len(engine.sample(document)) == context - 3
    (answer,) = engine.generate([document], GREEDY)
    assert (len(answer.tokens), answer.finish) == (4, "length")  # the last one is never read


def test_stop_strings_that_are_special_tokens_are_ids():
    prompt = index.system("llava-1.5").prompt
    ending = Ending.of(TOKENIZER, prompt, GenerationConfig(stop=("###", "a")))
    assert ending == Ending(frozenset({TOKENIZER.eos_id}), ("###", "a"))


@pytest.mark.parametrize("stop", ["re", "th", "e"])
def test_stop_strings_end_and_are_not_written(engine, stop):
    asked = documents()[:8]
    for free, answer in zip(
        engine.generate(asked, replace(SAMPLED, max_new_tokens=60)),
        engine.generate(asked, replace(SAMPLED, max_new_tokens=60, stop=(stop,))),
        strict=True,
    ):
        assert answer.text == free.text.split(stop)[0]
        assert answer.finish == ("stop" if stop in free.text else free.finish)
        assert answer.tokens == free.tokens[: len(answer.tokens)]


# --- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [GREEDY, MIXED_ENDS], ids=["greedy", "stops"])
def test_stream_adds_up_to_the_answer(engine, config):
    for document in documents()[-6:]:
        (whole,) = engine.generate([document], config)
        stream, pieces = engine.stream(document, config), []
        while True:
            try:
                pieces.append(next(stream))
            except StopIteration as end:
                assert end.value == whole
                break
        assert all(isinstance(p, Text) and p.role == "assistant" and p.text for p in pieces)
        assert "".join(p.text for p in pieces) == whole.text
        assert len(pieces) > 1 or len(whole.tokens) < 3


def test_stream_gives_text_before_the_answer_ends(engine, monkeypatch):
    steps = Counter()
    step = engine.model.backbone.step
    monkeypatch.setattr(engine.model.backbone, "step", lambda *a: steps.update(n=1) or step(*a))
    next(engine.stream(Document.ask("the red"), GenerationConfig(max_new_tokens=200)))
    assert steps["n"] < 5


# --- seeds -------------------------------------------------------------------------------------------------------


def test_seed_and_document_fix_the_answer(engine):
    asked = [Document.ask("the red", image=picture(0)), replace(Document.ask("the red", image=picture(0)), id="other")]
    first, other = engine.generate(asked, SAMPLED)
    assert engine.generate(asked[:1], SAMPLED)[0].tokens == first.tokens
    assert first.tokens != other.tokens
    assert engine.generate(asked[:1], replace(SAMPLED, seed=4))[0].tokens != first.tokens


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        (Document((), "d7"), NothingToAnswer, "d7 holds no words or media of a user; give it a question or"),
        (Document((Text("a", "assistant"),)), NothingToAnswer, "document 1 holds no words"),
        (Document.ask("?", video=b""), SpecError, "no template for video (it has image); drop the video or use"),
        (Document.ask("?", image="missing.png"), MediaError, "missing.png"),
        (Document.ask("é" * 600), TooLong, "(0 of media), but the backbone reads at most 512; shorten"),
    ],
)  # fmt: skip
def test_errors_say_what_and_where(engine, document, error, message):
    with pytest.raises(error) as raised:
        engine.generate([Document.ask("a"), document])
    assert message in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(error):
        next(engine.stream(document))


def test_a_true_answer_at_the_end_is_not_read(engine):
    asked = [Document.ask("what", image=picture(0)), Document.ask("what", image=picture(0), answer="a box")]
    assert engine.generate(asked[:1]) == engine.generate(asked[1:])
