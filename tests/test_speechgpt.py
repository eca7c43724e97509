"""Speech as units: read with repeats merged, learned in every stage, thought through in text, spoken as whole spans."""

from __future__ import annotations

import io
import wave
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from omniform import index
from omniform.batch import Batch, Tree
from omniform.cost.flops import positions, prefill_flops
from omniform.data.codes import Coder
from omniform.data.document import Document, Media, Segment, Text
from omniform.data.loader import read_views
from omniform.data.packing import pack
from omniform.data.processor import Processor, Sample
from omniform.data.sound import samples_of
from omniform.data.tokenizer import HfTokenizer, train_tokenizer
from omniform.data.tones import tone
from omniform.geometry import MediaSize, SpecError
from omniform.inference.engine import Engine
from omniform.inference.rows import Answer
from omniform.inference.sampling import GenerationConfig, MediaSampling, SamplingError
from omniform.model import Lmm

FULL = index.system("speechgpt")
WORDS = ["hear this is input: what is it? a rising tone; [ta] a low one; [ua] ", *FULL.prompt.literals()]


def made() -> tuple[Lmm, HfTokenizer]:
    tiny = FULL.shrunk("tiny")
    words = train_tokenizer(WORDS * 2, (*tiny.added_tokens, "<eoa>"), 330)
    torch.manual_seed(0)
    model: Lmm = tiny.but({"backbone.vocab": words.size}).build()
    with torch.no_grad():  # livelier than fresh weights
        for parameter in model.backbone.parameters():
            parameter.mul_(3.0)
    return model.eval(), words


MODEL, TOKENIZER = made()
ENGINE = Engine(MODEL, Processor(MODEL.system, TOKENIZER, Coder(MODEL)))
IDS = ENGINE.processor.spans["audio"]
CODEC: Any = MODEL.codecs["audio"]
HOT = GenerationConfig(temperature=3.0, media={"audio": MediaSampling(temperature=2.0)})


def sound(number: int, seconds: float = 0.7) -> Media:
    return Media("audio", (tone("rising", "low" if number % 2 else "high", seconds, 0.1 + number / 10), 16000))


ASKED = [
    Document((sound(0), Text("what is it?"))),
    Document((Text("hear this is input:"), sound(1, 1.3))),
    Document.ask("a low tone?"),
    Document((sound(0), Text("a rising one?"))),
]


def chained(number: int) -> Document:
    said = (Text("what is it?; [ta] a tone; [ua] ", "assistant"), replace(sound(number + 5), role="assistant"))
    return Document((sound(number), *said))


# --- reading -----------------------------------------------------------------------------------------------------


def test_sound_enters_as_its_units_without_repeats() -> None:
    sample = ENGINE.processor.sample(ASKED[0])
    (item,) = sample.coded
    given, _ = samples_of(item.media)
    assert item.plan.size == (1, len(given) * 80 // 16000) and len(sample.media) == 0
    ids = sample.ids[item.at].tolist()
    codes = [IDS.codes.index(i) for i in ids[1:-1]]
    assert (ids[0], ids[-1]) == (IDS.begin, IDS.end)
    assert all(a != b for a, b in pairwise(codes))
    assert 1 <= len(codes) <= item.plan.positions
    frames = CODEC.encode(CODEC.normalise(read_views(item, MODEL.system)))[0].tolist()
    assert codes == [u for n, u in enumerate(frames) if n == 0 or u != frames[n - 1]]


def test_at_full_size_a_second_takes_at_most_51_positions() -> None:
    second = MediaSize(samples=44100, rate=44100)
    assert positions(FULL, "audio", second) == 49 + 2
    flops = prefill_flops(FULL, [("audio", second)], 10)
    assert flops["audio.codec"] == FULL.codecs["audio"].flops((16000,))
    assert flops["backbone"] == prefill_flops(FULL, [], 10 + 51)["backbone"]


def test_ids_are_in_the_order_of_the_training_scripts() -> None:
    assert FULL.added_tokens[:2] == ("<0>", "<1>")
    assert FULL.added_tokens[999:] == ("<999>", "<sosp>", "<eosp>", "[Human]", "[SpeechGPT]", "<eoh>", "<eos>")
    assert FULL.variant("7b-ma").added_tokens == FULL.added_tokens[:1002]
    for name, vocab in (("speechgpt", 33006), ("speechgpt:7b-ma", 33002)):
        system = index.system(name)
        assert system.backbone.vocab == vocab == 32000 + len(system.added_tokens)
    config = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008}
    assert index.release("speechgpt", {**config, "vocab_size": 33002}).special_tokens == ("{audio}",)
    assert index.release("speechgpt", {**config, "vocab_size": 33006}).prompt == FULL.prompt


def test_pictures_are_refused() -> None:
    with pytest.raises(SpecError, match="no template for image"):
        ENGINE.processor.sample(Document((Media("image", b""),)))


# --- learning ----------------------------------------------------------------------------------------------------


def learned(stage: int, document: Document) -> tuple[Sample, str]:
    """A sample of a stage, and its learned text, "@" for a medium."""
    sample = ENGINE.processor.sample(document, prompt=FULL.stages[stage].prompt)
    kept = sample.learn.copy()
    for item in sample.coded:
        assert sample.learn[item.at].all()
        kept[item.at] = False
    text = "".join(TOKENIZER.inner.decode([i]) for i in sample.ids[kept])
    return sample, text


def test_adaptation_learns_sound_alone() -> None:
    sample, text = learned(0, Document((sound(0),)))
    assert text == "" and sample.learn.sum() == len(sample) - 1  # all but the beginning of the sequence


def test_everything_but_the_first_text_is_learned() -> None:
    asked = Document((Text("hear this is input: a tone"), replace(sound(2), role="assistant")))
    sample, text = learned(1, asked)
    assert text == "[Human]: hear this is input: a tone<eoh> [SpeechGPT]: <eoa> </s>"
    assert not sample.learn[: len(TOKENIZER.encode(FULL.prompt.system)[0]) + 1].any()
    _, text = learned(2, chained(0))
    assert text == "[Human]: <eoh>. [SpeechGPT]: what is it?; [ta] a tone; [ua] <eoa>.</s>"


def losses(batch: Batch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {name: loss.total for name, loss in MODEL(batch).items()}


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_packed_equals_alone(stage: int) -> None:
    asked = [replace(ASKED[i], segments=(*ASKED[i].segments, Text("a tone", "assistant"))) for i in (0, 3, 1)]
    documents = [*asked, chained(3), chained(4)]
    samples = [ENGINE.processor.sample(d, prompt=FULL.stages[stage].prompt) for d in documents]
    packed = pack(samples, ENGINE.load)
    assert packed.tree.length < sum(map(len, samples))  # the first two share what they hear
    together, alone = losses(packed), [losses(pack([s], ENGINE.load)) for s in samples]
    for name, total in together.items():
        assert float(total) == pytest.approx(float(sum(one[name] for one in alone)), rel=1e-4)
    assert together["audio"] > 0


def test_nothing_leaks() -> None:
    prompt = FULL.stages[1].prompt
    texts = [ENGINE.processor.sample(d, prompt=prompt) for d in (chained(0), chained(1), chained(2))]
    with torch.no_grad():
        before = MODEL.hidden(pack([texts[0], texts[1]], ENGINE.load))[: len(texts[0])]
        after = MODEL.hidden(pack([texts[0], texts[2]], ENGINE.load))[: len(texts[0])]
    assert torch.equal(before, after)


# --- speaking ----------------------------------------------------------------------------------------------------


def check(answer: Answer) -> int:
    """Every span of an answer is whole and becomes the sound that its codes predict; how many there are."""
    tokens, found = list(answer.tokens), []
    while IDS.begin in tokens:
        start = tokens.index(IDS.begin)
        assert not {*tokens[:start]} & {*IDS.codes, IDS.end}
        stop = tokens.index(IDS.end)
        codes = tokens[start + 1 : stop]
        assert codes and {*codes} <= {*IDS.codes}
        found.append([IDS.codes.index(c) for c in codes])
        tokens = tokens[stop + 1 :]
    assert not {*tokens} & {*IDS.codes, IDS.end}
    spoken = [s.source for s in answer.segments if isinstance(s, Media)]
    assert spoken == [CODEC.render(torch.tensor(codes)) for codes in found]
    for codes, file in zip(found, spoken, strict=True):
        with wave.open(io.BytesIO(file)) as heard:  # type: ignore[arg-type]
            lasts = CODEC.vocoder.durations(torch.tensor([codes]))
            assert heard.getnframes() == int(lasts.sum()) * 8 and heard.getframerate() == 80
    return len(found)


def test_200_seeds_at_high_temperature_give_whole_spans_only() -> None:
    spans = 0
    for seed in range(0, 200, 4):
        four = [replace(d, id=str(seed + i)) for i, d in enumerate(ASKED)]
        config = replace(HOT, seed=seed, max_new_tokens=3 + seed % 17, first="audio" if seed % 3 else "")
        spans += sum(map(check, ENGINE.generate(four, config)))
    assert spans > 100


@pytest.mark.parametrize(
    "config", [replace(HOT, max_new_tokens=20), GenerationConfig(max_new_tokens=14, first="audio")]
)
def test_batched_equals_alone(config: GenerationConfig) -> None:
    named = [replace(d, id=str(i)) for i, d in enumerate(ASKED)]
    together = ENGINE.generate(named, config)
    assert [a.tokens for a in together] == [ENGINE.generate([d], config)[0].tokens for d in named]


def test_codes_without_guidance_refuse_a_scale() -> None:
    with pytest.raises(SamplingError, match=r"guidance \(2\.0,\): audio is written without guidance; leave it out"):
        ENGINE.generate(ASKED, replace(HOT, media={"audio": MediaSampling(guidance=(2.0,))}))


def test_an_answer_streams_as_text_and_sound() -> None:
    stream, pieces = ENGINE.stream(ASKED[1], replace(HOT, first="audio", max_new_tokens=40)), list[Segment]()
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            answer = end.value
            break
    assert isinstance(pieces[0], Media) and check(answer) >= 1
    assert "".join(p.text for p in pieces if isinstance(p, Text)) == answer.text


def test_a_spoken_answer_can_be_asked_about() -> None:
    answer = ENGINE.generate([ASKED[0]], replace(HOT, first="audio", max_new_tokens=9))[0]
    spoken = next(s for s in answer.segments if isinstance(s, Media))
    sample = ENGINE.processor.sample(Document((*ASKED[0].segments, spoken, Text("what is it?"))), answer_next=True)
    assert len(sample.coded) == 2 and len(Tree.of([len(sample)]).nodes) == 1


def test_signs_of_turns_are_no_words() -> None:
    reserved = {*TOKENIZER.ids_of(["[Human]", "[SpeechGPT]", "<eoh>", "<eos>"])}
    for seed in range(8):
        answer = ENGINE.generate([ASKED[2]], replace(HOT, temperature=9.0, seed=seed, max_new_tokens=30))[0]
        assert not reserved & {*answer.tokens}
    assert np.isfinite(answer.log_probs).all()
