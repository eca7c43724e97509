"""Speech that is told along with an answer: learned from it, packed, given out in pieces while words come."""

from __future__ import annotations

import io
import wave
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from omniform import cost, index
from omniform.batch import Batch, Loss, Told, Tree
from omniform.data.dataset import Documents
from omniform.data.document import Document, Media, Segment, Text
from omniform.data.loader import Loader, Order
from omniform.data.packing import pack
from omniform.data.processor import Processor, Sample
from omniform.data.tokenizer import train_tokenizer
from omniform.geometry import SpecError
from omniform.index import UnknownName
from omniform.inference.chat import Chat
from omniform.inference.engine import Engine
from omniform.inference.rows import Answer
from omniform.inference.sampling import GenerationConfig, MediaSampling, SamplingError
from omniform.prompt import Turn
from omniform.training.step import accumulate

FULL = index.system("llama-omni")
SPEECH: Any = FULL.outputs["audio"]
CONTROL = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TWELVE = GenerationConfig(max_new_tokens=12, min_new_tokens=12)


def codes_of(item: Any) -> np.ndarray:
    """Stands for a codec: units that follow from the length of a sound."""
    return np.arange(len(item.media.source[0]) % 7 + 2) % 5


def made() -> Engine:
    words = train_tokenizer(["what do you hear ? a duck , a low tone", *FULL.prompt.literals()] * 2, CONTROL, 330)
    tiny = FULL.shrunk("tiny").but({"backbone.vocab": words.size, "outputs.audio.copies": 3})
    torch.manual_seed(0)
    model = tiny.build()
    with torch.no_grad():  # livelier than fresh weights
        for parameter in (*model.backbone.parameters(), *model.outputs.parameters()):
            parameter.mul_(3.0)
    return Engine(model, Processor(tiny, words, codes_of))


ENGINE = made()
MODEL, PROCESSOR = ENGINE.model, ENGINE.processor
DECODER = MODEL.part("audio.decoder")


def sound(samples: int, role: Any = "user") -> Media:
    return Media("audio", (np.sin(np.arange(samples) / 9).astype(np.float32)[:, None], 16000), role)


def spoken(question: int, *answers: tuple[str, int]) -> Document:
    """A sound, and answers in words and speech; further questions are words."""
    segments: list[Segment] = [sound(question)]
    for words, samples in answers:
        segments += [Text("what?"), Text(words, "assistant"), sound(samples, "assistant")]
    return Document(tuple(segments))


# --- the decoder -------------------------------------------------------------------------------------------------


def case(count: int = 2) -> tuple[Tensor, Batch]:
    torch.manual_seed(1)
    units = [torch.tensor([1, 1, 4, 0, 2]), torch.tensor([3, 0]), torch.tensor([2] * 3)][:count]
    places = [torch.tensor([1, 2, 3]), torch.tensor([5, 6]), torch.tensor([8])]
    told = tuple(Told(at, codes) for at, codes in zip(places, units, strict=False))
    blank = torch.zeros(10, dtype=torch.long)
    return torch.randn(10, 32), Batch(ids=blank, positions=blank, tree=Tree.of([10]), told={"audio": told})


def loss_of(hidden: Tensor, batch: Batch) -> Loss:
    return DECODER.loss(MODEL.backbone, hidden, batch)


def test_parameters_and_flops_are_as_declared() -> None:
    with torch.device("meta"):
        module = SPEECH.build(dim=4096)
    assert sum(p.numel() for p in module.parameters()) == SPEECH.num_params(4096) == 425649129
    assert SPEECH.blank == 1000 and SPEECH.title == "Unit Vocoder"
    weights = sum(p.numel() for p in module.parameters() if p.ndim == 2)
    assert SPEECH.flops(4096, 4) == 2 * 100 * weights + 4 * 2 * 100 * 100 * 4096


def test_a_token_costs_what_is_told_of_it_too() -> None:
    silent = FULL.but({"stages": FULL.stages[:1], "outputs": {"text": FULL.outputs["text"]}})
    assert cost.decode_flops(FULL, 400) - cost.decode_flops(silent, 400) == SPEECH.flops(4096, 1)
    tiny = MODEL.system.outputs["audio"]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        DECODER.symbols(torch.randn(1, 32))
    assert counter.get_total_flops() == tiny.flops(32, 1)  # type: ignore[attr-defined]


def test_loss_is_ctc_of_each_answer_alone() -> None:
    hidden, batch = case()
    expected = torch.zeros(())
    for at, codes in batch.told["audio"]:
        log_probs = F.log_softmax(DECODER([hidden[at]], [len(codes)])[0], dim=-1)
        length = torch.tensor([len(log_probs)]), torch.tensor([len(codes)])
        expected += F.ctc_loss(log_probs[:, None], codes[None], *length, blank=12, reduction="sum")
    found = loss_of(hidden, batch)
    assert torch.allclose(found.total, expected, rtol=1e-5)
    assert found.weight == 7


def test_gradients_reach_the_states_of_the_answer_only() -> None:
    hidden, batch = case()
    hidden.requires_grad_()
    loss_of(hidden, batch).total.backward()
    moved = hidden.grad.abs().sum(-1) > 0  # type: ignore[union-attr]
    assert moved.nonzero()[:, 0].tolist() == [1, 2, 3, 5, 6]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in DECODER.parameters())
    DECODER.zero_grad()


def test_one_answer_does_not_move_another() -> None:
    hidden, _ = case()
    first = DECODER([hidden[:3], hidden[5:7]], [0, 0])
    other = DECODER([hidden[:3] + 1, hidden[5:7]], [0, 0])
    assert torch.equal(first[1], other[1]) and not torch.equal(first[0], other[0])


def test_without_speech_nothing_is_lost_and_everything_takes_part() -> None:
    hidden, batch = case(0)
    found = loss_of(hidden, replace(batch, told={}))
    assert (found.total.item(), found.weight.item()) == (0.0, 0.0)
    found.total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in DECODER.parameters())
    DECODER.zero_grad()


def test_more_units_than_copies_stretch_the_copies() -> None:
    states = torch.arange(2.0)[:, None]
    assert DECODER.copied(states)[:, 0].tolist() == [0.0] * 3 + [1.0] * 3
    assert DECODER.copied(states, 9)[:, 0].tolist() == [0.0] * 5 + [1.0] * 4
    hidden, batch = case(3)
    assert loss_of(hidden, batch).total.isfinite()  # three equal units of one state: no way to tell them apart
    assert loss_of(hidden, batch).weight == 10


def test_runs_are_merged_across_calls() -> None:
    symbols = [12, 3, 3, 12, 3, 1, 1, 12, 0]
    assert DECODER.units(symbols) == [3, 3, 1, 0]
    for cut in range(1, len(symbols)):
        assert DECODER.units(symbols[:cut]) + DECODER.units(symbols[cut:], symbols[cut - 1]) == [3, 3, 1, 0]


def test_impossible_decoders_are_refused() -> None:
    books = index.load("codecs", "Encodec")
    with pytest.raises(SpecError, match="copies 0, piece 40: give at least 1 each"):
        SPEECH.but(copies=0)
    with pytest.raises(SpecError, match=r"tells one code after another, but .* has 8 books"):
        SPEECH.but(codec=books(streams=8))
    with pytest.raises(UnknownName, match="output in stage 'speak' of llama-omni"):
        FULL.but({"stages.speak": replace(FULL.stages[1], outputs=("sound",))})


# --- documents ---------------------------------------------------------------------------------------------------


def sample(document: Document) -> Sample:
    return PROCESSOR.sample(document)


def said(found: Sample, number: int) -> str:
    item = found.told[number]
    return PROCESSOR.tokenizer.decode(found.ids[item.at].tolist())


def test_the_prompt_is_literal() -> None:
    turns = (Turn("user", (("audio", 0), "Please directly answer.")), Turn("assistant", ("A duck.",)))
    pieces = FULL.prompt.render(turns)
    text = "".join("<speech>" if p.media is not None else p.text for p in pieces)
    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and speech "
        "assistant. You are able to understand the speech content that the user provides, and assist the user with a "
        "variety of tasks using natural language.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n<speech>\n"
        "Please directly answer.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA duck.<|eot_id|>"
    )
    assert "".join(p.text for p in pieces if p.learn) == "A duck.<|eot_id|>"


def test_speech_of_answers_takes_no_positions_and_is_told_from_their_tokens() -> None:
    document = spoken(1600, ("a duck", 100), ("a low tone", 103))
    found = sample(document)
    silent = Document(tuple(s for s in document.segments if s.role == "user" or isinstance(s, Text)))
    assert found.ids.tolist() == sample(silent).ids.tolist() and not sample(silent).told
    assert [said(found, n) for n in (0, 1)] == ["a duck", "a low tone"]
    assert [len(item.codes) for item in found.told] == [100 % 7 + 2, 103 % 7 + 2]
    assert sum(len(item.at) for item in found.told) == found.learn.sum()
    ends = found.ids[[item.at[-1] for item in found.told]]
    assert ends.tolist() == [PROCESSOR.tokenizer.id_of("<|eot_id|>")] * 2


def test_answers_that_are_not_learned_are_not_told() -> None:
    document = spoken(1600, ("a duck", 100), ("a low tone", 103))
    segments = [replace(s, learn=n > 3) for n, s in enumerate(document.segments)]
    found = sample(Document(tuple(segments)))
    assert [said(found, n) for n in range(len(found.told))] == ["a low tone"]


def test_cut_answers_are_told_from_what_is_left() -> None:
    found = sample(spoken(1600, ("a duck", 100), ("a low tone", 103)))
    first, last = (item.at for item in found.told)
    cut = found.cut(int(last[1]))
    assert [item.at.tolist() for item in cut.told] == [first.tolist(), last[:1].tolist()]
    assert len(found.cut(int(last[0])).told) == 1


def test_a_prompt_that_learns_more_than_answers_is_refused() -> None:
    prompt = replace(FULL.prompt, always_learned=(), learn_header=False, answer="{text}<|eot_id|>", user_learned="user")
    user = prompt.user.replace("{media}", "")
    with pytest.raises(SpecError, match="1 answers of a document are to be learned, but its prompt learns 2"):
        PROCESSOR.sample(spoken(1600, ("a duck", 100)), prompt=replace(prompt, user="{media}" + user))


def test_packed_trees_compute_what_each_document_computes_alone() -> None:
    documents = [
        spoken(1600, ("a duck", 100)), spoken(1600, ("a low tone", 101)), spoken(3000, ("a duck", 102), ("low", 103)),
        spoken(1600, ("a duck", 104)),
    ]  # fmt: skip
    samples = [sample(d) for d in documents]
    found, parts = gradients(samples, trees=True), [gradients([s], trees=True) for s in samples]
    for name, loss in found[0].items():
        alone = [part[0][name] for part in parts]
        assert torch.allclose(loss.total, sum(p.total for p in alone), rtol=1e-5)  # type: ignore[arg-type]
        assert loss.weight == sum(p.weight for p in alone)
    assert found[0]["audio"].weight == sum(len(i.codes) for s in samples for i in s.told)
    scale = max(float(g.abs().max()) for g in found[1].values())
    for name, gradient in found[1].items():
        assert (gradient - sum(p[1][name] for p in parts)).abs().max() < 1e-5 * scale, name


def gradients(samples: list[Sample], *, trees: bool) -> tuple[dict[str, Loss], dict[str, Tensor]]:
    batch = pack(samples, ENGINE.load, trees=trees)
    MODEL.zero_grad()
    losses = MODEL(batch)
    sum(loss.total for loss in losses.values()).backward()  # type: ignore[union-attr]
    kept = {name: p.grad.clone() for name, p in MODEL.named_parameters() if p.grad is not None}
    MODEL.zero_grad()
    return losses, kept


def test_a_step_is_the_same_in_one_batch_or_several() -> None:
    documents = [spoken(n, ("a duck", 100 + n), ("low", n)) for n in (1600, 1700, 2500, 3001)]
    found = []
    for most in (10000, 1):
        order = Order(tuple((n,) for n in range(4)), 4, 0)
        step = Loader(Documents(documents), PROCESSOR, order, pack_positions=most).step(range(4))
        MODEL.zero_grad()
        loss = accumulate(MODEL, step, "float32", torch.device("cpu"), ("audio",))
        found.append((len(step.micro), loss, [p.grad.clone() for p in DECODER.parameters() if p.grad is not None]))
    MODEL.zero_grad()
    (one, whole, gradient), (several, parts, summed) = found
    assert (one, several) == (1, 4)
    assert torch.allclose(whole, parts, rtol=1e-5)
    units = sum(len(item.codes) for d in documents for item in sample(d).told)
    assert torch.allclose(whole, sum(gradients([sample(d)], trees=True)[0]["audio"].total for d in documents) / units)  # type: ignore[arg-type]
    scale = max(float(g.abs().max()) for g in gradient)
    assert all((a - b).abs().max() < 1e-5 * scale for a, b in zip(gradient, summed, strict=True))


def test_only_the_outputs_of_a_stage_are_computed() -> None:
    batch = pack([sample(spoken(1600, ("a duck", 100)))], ENGINE.load)
    whole = MODEL(batch)
    assert list(whole) == ["text", "audio"]
    for name in whole:
        only = MODEL(batch, (name,))
        assert list(only) == [name] and torch.equal(only[name].total, whole[name].total)


# --- answers -----------------------------------------------------------------------------------------------------

ASKED = [Document((sound(n), Text(f"what{'?' * (n % 3)}")), str(n)) for n in (1600, 1700, 2500, 3001)]


def samples_in(media: Segment) -> bytes:
    assert isinstance(media, Media) and isinstance(media.source, bytes)
    with wave.open(io.BytesIO(media.source)) as file:
        return file.readframes(file.getnframes())


def same(first: Answer, second: Answer) -> bool:
    sounds = [[samples_in(s) for s in a.segments if isinstance(s, Media)] for a in (first, second)]
    return (first.tokens, first.text, sounds[0]) == (second.tokens, second.text, sounds[1])


def test_answers_in_a_batch_are_spoken_as_alone() -> None:
    batched = ENGINE.generate(ASKED, TWELVE)
    assert all([type(s) for s in a.segments] == [Text, Media] for a in batched)
    for document, answer in zip(ASKED, batched, strict=True):
        assert same(answer, ENGINE.generate([document], TWELVE)[0])


def test_units_are_those_of_the_states_that_tokens_follow_from() -> None:
    asked = ENGINE.sample(ASKED[0])
    answer = ENGINE.generate(ASKED[:1], TWELVE)[0]
    whole = pack([asked.followed_by(answer.tokens[:-1])], ENGINE.load)
    with torch.inference_mode():
        hidden = MODEL.hidden(whole)[len(asked) - 1 :]
        units = DECODER.units(DECODER.symbols(hidden).tolist())
    assert len(hidden) == 12 and len(units) > 4
    expected = DECODER.render(MODEL.codecs["audio"], units)
    assert samples_in(answer.segments[-1]) == samples_in(Media("audio", expected, "assistant"))


def test_pieces_come_while_words_are_written() -> None:
    stream, given = ENGINE.stream(ASKED[0], TWELVE), []
    while True:
        try:
            given.append(next(stream))
        except StopIteration as end:
            answer = end.value
            break
    kinds = [type(s) for s in given]
    assert kinds.count(Media) >= 3 and Text in kinds[kinds.index(Media) :]
    assert same(answer, ENGINE.generate(ASKED[:1], TWELVE)[0])


def test_pieces_together_are_all_units(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[list[int]] = []
    speak = DECODER.render
    monkeypatch.setattr(DECODER, "render", lambda codec, codes: rendered.append(list(codes)) or speak(codec, codes))
    list(ENGINE.stream(ASKED[1], TWELVE))
    *pieces, whole = rendered
    assert [unit for piece in pieces for unit in piece] == whole
    assert all(len(piece) >= DECODER.spec.piece for piece in pieces[:-1]) and len(pieces) > 1


def test_a_conversation_goes_on_in_words() -> None:
    chat, config = Chat(ENGINE, TWELVE), TWELVE
    first = chat.ask("what?", audio=ASKED[0].media[0].source)
    second = chat.ask("and?")
    assert [type(s) for s in first.segments] == [Text, Media]
    whole = Document((*ASKED[0].segments[:1], Text("what?"), *first.segments, Text("and?")))
    assert same(second, ENGINE.generate([whole], config)[0])


def test_speech_can_be_left_out_but_not_words() -> None:
    quiet = ENGINE.generate(ASKED[:1], replace(TWELVE, modalities=("text",)))[0]
    assert [type(s) for s in quiet.segments] == [Text]
    assert quiet.tokens == ENGINE.generate(ASKED[:1], TWELVE)[0].tokens
    for wrong in (
        {"modalities": ("audio",)}, {"first": "audio"}, {"media": {"audio": MediaSampling()}},
    ):  # fmt: skip
        with pytest.raises(SamplingError, match="audio of llama-omni is told along with the words of an answer"):
            ENGINE.generate(ASKED[:1], replace(TWELVE, **wrong))
    with pytest.raises(UnknownName, match="no output of llama-omni named 'image'; known: audio, text"):
        ENGINE.generate(ASKED[:1], replace(TWELVE, modalities=("image", "text")))


def test_a_configuration_gives_its_sizes() -> None:
    from omniform.systems.llama_omni import from_release

    language = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "rope_theta": 5e5}
    small = from_release(
        {**language, "ctc_decoder_config": "(3,32,4,40)", "unit_vocab_size": 7, "ctc_loss_weight": 2.0}
    )
    told: Any = small.outputs["audio"]
    assert (told.trunk.layers, told.trunk.dim, told.trunk.kv_heads, told.blank, told.weight) == (3, 32, 4, 7, 2.0)
    assert (told.copies, told.trunk.rope_theta) == (25, FULL.backbone.rope_theta)  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match="ctc_decoder_config '2,4096' is not"):
        from_release({**language, "ctc_decoder_config": "2,4096"})
