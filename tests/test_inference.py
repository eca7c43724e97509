"""The engine: an answer is the same alone, in any batch, streamed, and in a chat; and equal to full recomputation."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM

from omniform import index
from omniform.backbones.llama import LLAMA_7B, Llama
from omniform.backbones.mistral import MISTRAL_7B_V01
from omniform.batch import Node, Tree
from omniform.data.document import Document, Media, Text
from omniform.data.media import MediaError
from omniform.data.packing import pack
from omniform.data.processor import Processor, TooLong
from omniform.data.tokenizer import train_tokenizer
from omniform.geometry import SpecError
from omniform.inference.batches import batches
from omniform.inference.cache import KeyValues
from omniform.inference.chat import Chat
from omniform.inference.decoding import Decoding, Place, slots_for
from omniform.inference.engine import Engine, NothingToAnswer
from omniform.inference.rows import Ending
from omniform.inference.sampling import GenerationConfig

WORDS = "what shape and colour is in the picture ? a red circle on the left of the blue box USER: ASSISTANT: é ü 漢字"
NEW = 12
GREEDY = GenerationConfig(max_new_tokens=NEW)
SAMPLED = GenerationConfig(max_new_tokens=NEW, temperature=1.0, top_p=0.9, seed=3)
MIXED_ENDS = replace(SAMPLED, stop=("e", "a", "i"))
"""Answers of different lengths."""


class Alone(Llama):
    """A backbone whose documents cannot share positions."""

    trees = False


BACKBONES = {
    "llama": LLAMA_7B,
    "grouped queries": LLAMA_7B.but(kv_heads=8),
    "window": MISTRAL_7B_V01.but(window=512),  # 8 positions at tiny size
    "no trees": Alone(**{**vars(LLAMA_7B), "name": ""}),
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([WORDS] * 3, size=400)


def make_engine(tokenizer, backbone=LLAMA_7B, positions=4096):
    small = backbone.shrunk("tiny").but(vocab=tokenizer.size)
    system = index.system("llava-1.5").shrunk("tiny").but({"backbone": small})
    torch.manual_seed(0)
    model = system.build()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return Engine(model, Processor(system, tokenizer), positions=positions)


@pytest.fixture(scope="module", params=BACKBONES)
def any_engine(request, tokenizer):
    return make_engine(tokenizer, BACKBONES[request.param])


@pytest.fixture(scope="module")
def engine(tokenizer):
    return make_engine(tokenizer)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8))


def documents():
    """Families of 1, 3 and 19 about one picture, questions of mixed lengths, words only, two pictures, two turns."""
    asked = [
        Document.ask(f"what {'shape ' * (q % 5)}?{q}", image=picture(p))
        for p, n in ((0, 1), (1, 3), (2, 19))
        for q in range(n)
    ]
    others = [
        Document.ask("the red"),
        Document((Media("image", picture(0)), Text("left of"), Media("image", picture(3)), Text("?"))),
        Document((Media("image", picture(1)), Text("what?"), Text("box", "assistant"), Text("colour?"))),
        Document.ask("blue circle " * 9, system="in the picture"),
    ]
    mixed = [asked[i] for i in np.random.default_rng(0).permutation(len(asked))] + others
    return [Document(d.segments, str(i)) for i, d in enumerate(mixed)]


@pytest.mark.parametrize("config", [GREEDY, SAMPLED, MIXED_ENDS], ids=["greedy", "sampled", "mixed ends"])
def test_batched_equals_single(any_engine, config):
    asked = documents()
    together = any_engine.generate(asked, config)
    for document, answer in zip(asked, together, strict=True):
        (alone,) = any_engine.generate([document], config)
        assert (alone.tokens, alone.text, alone.finish) == (answer.tokens, answer.text, answer.finish)
        assert answer.log_probs == pytest.approx(alone.log_probs, abs=1e-5)
    assert len({a.tokens for a in together}) > 20
    if config is MIXED_ENDS:
        assert len({len(a.tokens) for a in together}) > 5 and {a.finish for a in together} == {"stop", "length"}


def test_small_batches_equal_large_ones(engine, tokenizer):
    asked = documents()
    small = make_engine(tokenizer, positions=100)
    assert [a.tokens for a in small.generate(asked, SAMPLED)] == [a.tokens for a in engine.generate(asked, SAMPLED)]


def test_cached_decoding_equals_full_recomputation(any_engine, monkeypatch):
    backbone, seen = any_engine.model.backbone, []
    logits = backbone.logits
    monkeypatch.setattr(backbone, "logits", lambda hidden: seen.append(logits(hidden)) or seen[-1])
    document = documents()[-2]
    sample = any_engine.sample(document)
    (answer,) = any_engine.generate([document], GREEDY)
    decoded = torch.cat(seen)
    ids = np.concatenate([sample.ids, answer.tokens[:-1]])
    batch = pack([replace(sample, ids=ids, learn=np.zeros(len(ids), bool))], any_engine.load)
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


def test_stop_strings_that_are_special_tokens_are_ids(tokenizer):
    prompt = index.system("llava-1.5").prompt
    ending = Ending.of(tokenizer, prompt, GenerationConfig(stop=("###", "a")))
    assert ending == Ending(frozenset({tokenizer.eos_id}), ("###", "a"))


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


# --- chat --------------------------------------------------------------------------------------------------------

TURNS = (("what", 0), ("and the", None), ("red", 1), ("blue", None))


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


@pytest.mark.parametrize("backbone", ["llama", "window"])
@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_chat_equals_the_whole_document_from_scratch(tokenizer, config, backbone):
    engine = make_engine(tokenizer, BACKBONES[backbone])
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


# --- batches -----------------------------------------------------------------------------------------------------


def test_batches_keep_media_together_within_positions(engine):
    asked = documents()
    found = list(batches(asked, lambda i: engine.sample(asked[i]), 200))
    assert sorted(n for batch in found for n, _ in batch) == list(range(len(asked)))
    for batch in found:
        assert pack([s for _, s in batch], engine.load).tree.length <= 200
        families = [s.media_keys for _, s in batch if s.media_keys]
        changes = sum(a != b for a, b in pairwise(families))
        assert changes == max(len(set(families)) - 1, 0)
    alone = list(batches(asked, lambda i: engine.sample(asked[i]), 1))
    assert [len(batch) for batch in alone] == [1] * len(asked)


def test_progress_counts_documents(engine, tokenizer):
    calls = []
    asked = documents()
    make_engine(tokenizer, positions=200).generate(
        asked, GenerationConfig(max_new_tokens=1), lambda *a: calls.append(a)
    )
    assert len(calls) > 3 and calls[-1] == (len(asked), len(asked))
    assert [c[0] for c in calls] == sorted({c[0] for c in calls})


# --- the cache ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("families", "slots"),
    [([1], 1), ([1] * 50, 1), ([5], 5), ([40], 16), ([10] * 20, 10), ([12, *[1] * 100], 1), ([8, 9, 10, 11, 12], 12)],
)
def test_blocks_hold_as_many_rows_as_leave_few_slots_empty(families, slots):
    assert slots_for(families) == slots


def test_cache_grows_keeps_and_folds():
    cache, columns = KeyValues(), torch.randn(1, 2, 90, 3)
    for start, stop in ((0, 10), (10, 11), (11, 60), (60, 90)):
        keys, values = cache.update(columns[:, :, start:stop], -columns[:, :, start:stop], 0)
        assert torch.equal(keys, columns[:, :, :stop]) and torch.equal(values, -columns[:, :, :stop])
    cache.keep(20)
    assert cache.columns == cache.get_seq_length() == 20
    cells = torch.tensor([[0, 1, 2, 0], [0, 7, 8, 19]])
    folded = cache.fold(cells, 3)
    assert torch.equal(folded.layers[0].keys, columns[0][:, cells[:, :3]].transpose(0, 1))
    assert (folded.columns, folded.capacity) == (3, 4)
    keys, _ = folded.update(torch.ones(2, 2, 1, 3), torch.ones(2, 2, 1, 3), 0)
    assert torch.equal(keys[:, :, 3], torch.ones(2, 2, 3)) and torch.equal(keys[1, :, 1], columns[0, :, 7])


def test_rows_that_are_done_leave_the_cache():
    tree = Tree((Node(0, 10), Node(10, 13, 0), Node(13, 15, 0), Node(15, 18, 0), Node(18, 22, 0), Node(22, 30)))
    torch.manual_seed(0)
    backbone = LLAMA_7B.shrunk("tiny").build().eval()
    cache = KeyValues()
    ids = torch.randint(0, 128, (30,))
    with torch.inference_mode():
        backbone(backbone.embed(ids), tree.depth, tree, cache)
    decoding = Decoding(backbone, cache, Place.of(tree))
    cells = [tuple(decoding.positions.shape)]
    assert decoding.cache.like.shape[::2] == (3, 17)  # two blocks of the family: 10 + 3 + 2, 10 + 3 + 4
    decoding.step(torch.arange(5))
    decoding.keep([1, 3, 4])
    cells.append(tuple(decoding.positions.shape))
    hidden = decoding.step(torch.tensor([7, 8, 9]))
    decoding.keep([1])
    cells.append(tuple(decoding.positions.shape))
    assert cells == [(3, 2), (3, 1), (1, 1)]  # rows 1 and 3 stand in different blocks
    assert decoding.cache.like.shape[::2] == (1, 16) and decoding.mask is None
    chain = torch.cat([ids[:10], ids[18:22], torch.tensor([3, 8])])
    with torch.inference_mode():
        alone = backbone(backbone.embed(chain), torch.arange(16), Tree.of([16]))[-1]
    assert (hidden[1] - alone).abs().max() < 1e-5
