"""Media that signals stand for: learned, packed, written; batched equals alone; the stream of segments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omniform import index, serial
from omniform.batch import Batch, Features
from omniform.connectors.query_transformer import QueryTransformer
from omniform.cost.parameters import parameters
from omniform.data.document import Document, Media, Segment, Text
from omniform.data.packing import pack
from omniform.data.processor import Processor, Sample
from omniform.data.tokenizer import train_tokenizer
from omniform.decoders.regressed import Regressed
from omniform.decoders.text import Text as TextOutput
from omniform.diffusion.stable_diffusion import STABLE_DIFFUSION_1_5
from omniform.frozen import FrozenMap
from omniform.geometry import SpecError
from omniform.index import UnknownName
from omniform.inference.engine import Engine
from omniform.inference.rows import Answer
from omniform.inference.sampling import GenerationConfig, MediaSampling, SamplingError
from omniform.model import Lmm
from omniform.spec import System
from omniform.views.fixed import Fixed

TOKENS = ("[IMG0]", "[IMG1]", "[IMG2]")
REGRESSED = Regressed(
    tokens=TOKENS, learned=1, embedded=True, head=QueryTransformer(), diffusion=STABLE_DIFFUSION_1_5,
    losses={"distance": 1.0, "noise": 0.5}, views=Fixed(fit="crop"),
)  # fmt: skip
LLAVA: System = index.system("llava-1.5").shrunk("tiny")
WORDS = train_tokenizer(["what is this? a red circle, draw a blue square USER: ASSISTANT:"] * 2, TOKENS, 330)


def made(**changes: Any) -> Lmm:
    """A small model that reads pictures and draws them."""
    outputs = {"text": TextOutput(), "image": REGRESSED.but(**changes).shrunk("tiny")}
    system = LLAVA.but(outputs=FrozenMap(outputs), stages=()).but({"backbone.vocab": WORDS.size})
    torch.manual_seed(0)
    model: Lmm = system.build()
    with torch.no_grad():  # livelier than fresh weights
        for parameter in model.backbone.parameters():
            parameter.mul_(3.0)
    return model.eval()


MODEL = made()
ENGINE = Engine(MODEL, Processor(MODEL.system, WORDS))
IDS = ENGINE.processor.signals["image"].ids
DECODER = MODEL.part("image.decoder")
HOT = GenerationConfig(max_new_tokens=16, temperature=3.0)


def picture(shade: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(shade).integers(0, 255, (10, 12, 3), dtype=np.uint8))


def drawn(words: str, shade: int, **more: Any) -> Document:
    return Document((Text(words), Media("image", picture(shade), "assistant", **more)))


QUESTIONS = [
    Document.ask("what is this?", image=picture(0)),
    Document.ask("draw a blue square"),
    Document.ask("what is that, a circle?", image=picture(0)),
]


def loss_of(samples: list[Sample], model: Lmm = MODEL) -> tuple[Batch, dict[str, Any]]:
    batch = pack(samples, ENGINE.load)
    torch.manual_seed(1)  # noise
    with torch.no_grad():
        return batch, model(batch)


# --- declarations ------------------------------------------------------------------------------------------------


def test_the_system_writes_features() -> None:
    system = MODEL.system
    assert system.output_type == 2 and system.written == ("image",)
    assert system.added_tokens[-3:] == TOKENS
    assert serial.loads(serial.dumps(system)) == system
    counted = parameters(system)
    assert counted["image.diffusion"] == sum(p.numel() for p in MODEL.part("image.diffusion").parameters())
    assert counted["image.decoder"] == sum(p.numel() for p in DECODER.parameters())
    assert sum(counted.values()) == sum(p.numel() for p in MODEL.parameters())


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(SpecError, match=r"text learns 4 of the 3 tokens"):
        REGRESSED.but(learned=4)
    with pytest.raises(UnknownName, match=r"no loss of a condition named 'distanse'; did you mean 'distance'"):
        REGRESSED.but(losses={"distanse": 1.0})
    with pytest.raises(SpecError, match=r"loss 'noise' sees the medium: say how"):
        REGRESSED.but(views=None)
    with pytest.raises(SpecError, match=r"gives 78 positions, but SD reads 77"):
        REGRESSED.but(head=QueryTransformer(positions=78))
    with pytest.raises(SpecError, match=r"StableDiffusion makes image, but stands at 'audio'"):
        LLAVA.but(outputs=FrozenMap(text=TextOutput(), audio=REGRESSED))


# --- learning ----------------------------------------------------------------------------------------------------


def test_a_drawn_picture_is_its_signal() -> None:
    document = Document((Text("draw"), Text("a blue square", "assistant"), Media("image", picture(1), "assistant")))
    sample = ENGINE.processor.sample(document)
    (aim,) = sample.aims
    assert sample.ids[aim.at].tolist() == IDS and sample.learn[aim.at].tolist() == [True, False, False]
    assert (aim.caption, sample.media) == ("a blue square", ())
    assert ENGINE.processor.sample(drawn("draw", 1, caption="a cat")).aims[0].caption == "a cat"
    assert not ENGINE.processor.sample(drawn("draw", 1, learn=False)).learn.any()


def test_losses_are_those_of_each_medium() -> None:
    sample = ENGINE.processor.sample(drawn("a red circle", 2))
    batch, losses = loss_of([sample])
    (aim,) = sample.aims
    with torch.no_grad():
        hidden = MODEL.hidden(batch)[torch.from_numpy(aim.at)] + MODEL.backbone.embed(torch.tensor(IDS))
        given = DECODER.head(Features(hidden[None], (3,))).values
        wanted = MODEL.part("image.diffusion").condition(["a red circle"])[:, :5]
        distance = (given - wanted).norm(dim=-1).mean()
        torch.manual_seed(1)
        padded = torch.cat([given, torch.zeros(1, 72, 12)], 1)
        noise = MODEL.part("image.diffusion").noise_loss(padded, batch.signals["image"].views[0])
    assert float(losses["image"].total) == pytest.approx(float(distance + 0.5 * noise), rel=1e-5)
    assert losses["image"].weight == 1 and losses["text"].weight == sample.learn.sum()


def test_packed_equals_alone_also_behind_a_shared_picture() -> None:
    model = made(losses={"distance": 1.0})
    shown = Media("image", picture(0))
    documents = [
        Document((shown, Text(f"draw {words}"), Media("image", picture(n), "assistant")))
        for n, words in enumerate(("a red circle", "a blue square", "this"))
    ]
    documents += [drawn("a circle", 3), Document.ask("what is this?", image=picture(0), answer="red")]
    samples = [ENGINE.processor.sample(d) for d in documents]
    batch, together = loss_of(samples, model)
    assert len(batch.ids) < sum(map(len, samples)) and len(batch.signals["image"].captions) == 4
    assert torch.equal(batch.ids[batch.signals["image"].at], torch.tensor([IDS] * 4))
    alone = [loss_of([s], model)[1] for s in samples]
    for name in ("text", "image"):
        assert float(together[name].total) == pytest.approx(float(sum(a[name].total for a in alone)), rel=1e-4)
        assert float(together[name].weight) == float(sum(a[name].weight for a in alone))


def test_states_before_the_signal() -> None:
    model = made(taken="before", losses={"squares": 2.0, "cosine": 1.0})
    samples = [ENGINE.processor.sample(drawn(w, 1)) for w in ("a red circle", "a blue circle")]
    batch, losses = loss_of(samples, model)
    signals = batch.signals["image"]
    assert torch.equal(signals.before, signals.at[:, 0] - 1)
    assert torch.equal(model.part("image.decoder").taken(signals), signals.at - 1)
    assert torch.isfinite(losses["image"].total)


def test_a_batch_without_signals_has_gradients_everywhere() -> None:
    model = made().train()
    batch = pack([ENGINE.processor.sample(Document.ask("what?", answer="red"))], ENGINE.load)
    losses = model(batch)
    (losses["text"].total + losses["image"].total).backward()
    assert losses["image"].weight == 0 and losses["image"].total == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.part("image.decoder").parameters())


def test_an_undrawn_medium_needs_no_pixels() -> None:
    model = made(losses={"distance": 1.0})
    processor = Processor(model.system, WORDS)
    sample = processor.sample(Document((Text("a cat"), Media("image", "nowhere.png", "assistant"))))
    assert pack([sample], ENGINE.load).signals["image"].views == ()


# --- writing -----------------------------------------------------------------------------------------------------


def check(answer: Answer) -> int:
    """Every signal of an answer is whole, and has its picture; how many there are."""
    tokens, found = list(answer.tokens), 0
    while IDS[0] in tokens:
        start = tokens.index(IDS[0])
        assert not {*tokens[:start]} & {*IDS} and tokens[start : start + 3] == IDS
        tokens, found = tokens[start + 3 :], found + 1
    assert not {*tokens} & {*IDS}
    pictures = [s.source for s in answer.segments if isinstance(s, Media)]
    assert [p.size for p in pictures] == [(16, 16)] * found  # type: ignore[union-attr]
    return found


def test_signals_are_whole_under_many_seeds() -> None:
    pictures = 0
    for seed in range(0, 60, 3):
        first = "image" if seed % 2 else ""
        config = replace(HOT, seed=seed, max_new_tokens=3 + seed % 12, first=first)
        answers = ENGINE.generate([replace(d, id=str(seed + i)) for i, d in enumerate(QUESTIONS)], config)
        pictures += sum(map(check, answers))
    assert pictures > 30


@pytest.mark.parametrize("config", [replace(HOT, first="image"), GenerationConfig(max_new_tokens=9, first="image")])
def test_batched_equals_alone_and_again(config: GenerationConfig) -> None:
    named = [replace(d, id=str(i)) for i, d in enumerate(QUESTIONS)]
    together, again = ENGINE.generate(named, config), ENGINE.generate(named, config)
    alone = [ENGINE.generate([d], config)[0] for d in named]
    for a, b, c in zip(together, again, alone, strict=True):
        assert a.tokens == b.tokens == c.tokens
        first, second, third = (np.asarray(x.segments[0].source).astype(int) for x in (a, b, c))  # type: ignore[union-attr]
        assert (first == second).all() and abs(first - third).max() <= 1


def test_what_is_drawn_is_the_condition_of_the_states_there() -> None:
    """Equals reading prompt and signal at once, and diffusing under the same noise."""
    config = GenerationConfig(
        max_new_tokens=3, modalities=("image",), media={"image": MediaSampling(steps=3, guidance=(2.0,))}
    )
    (answer,) = ENGINE.generate([QUESTIONS[1]], config)
    assert answer.tokens == tuple(IDS) and answer.finish == "stop" and len(answer.segments) == 1
    sample = ENGINE.sample(QUESTIONS[1]).followed_by(IDS)
    with torch.inference_mode():
        hidden = MODEL.hidden(pack([sample], ENGINE.load))[-3:]
        condition = DECODER.condition(MODEL.backbone, hidden[None], torch.tensor([IDS]))
        wanted = DECODER.render(condition, config.random("/3"), 2.0, 3)
    got: Any = answer.segments[0]
    assert abs(np.asarray(got.source).astype(int) - np.asarray(wanted).astype(int)).max() <= 1


def test_what_cannot_come_is_refused() -> None:
    with pytest.raises(SamplingError, match=r"2 tokens may come, but the medium that is asked for takes 3"):
        ENGINE.generate(QUESTIONS, replace(HOT, first="image", max_new_tokens=2))
    config = replace(HOT, first="image", media={"image": MediaSampling(guidance=(1.0, 2.0))})
    with pytest.raises(SamplingError, match=r"made under one scale"):
        ENGINE.generate(QUESTIONS, config)


def test_without_a_diffusion_model_nothing_is_drawn() -> None:
    model = made(rendered=False)
    engine = Engine(model, Processor(model.system, WORDS))
    assert (
        model.system.output_type == 2 and model.system.written == () and "image.diffusion" not in model.system.parts()
    )
    assert not {t for a in engine.generate(QUESTIONS, HOT) for t in a.tokens} & {*IDS}
    with pytest.raises(ValueError, match=r"SD is not built: set rendered=True"):
        loss_of([ENGINE.processor.sample(drawn("a cat", 0))], model)


def test_text_streams_and_a_picture_comes_whole() -> None:
    stream = ENGINE.stream(QUESTIONS[1], replace(HOT, first="image", seed=3))
    pieces: list[Segment] = list(stream)
    assert isinstance(pieces[0], Media) and len(pieces) > 2 and all(isinstance(p, Text) for p in pieces[1:3])


def test_an_answer_is_the_context_of_the_next() -> None:
    """A picture that was drawn re-enters as its signal."""
    document = Document((*drawn("a cat", 0).segments, Text("and a dog")))
    ids = ENGINE.sample(document).ids.tolist()
    assert [i for i in ids if i in IDS] == IDS


def test_the_context_leaves_room_to_read_the_last_token() -> None:
    endless = replace(HOT, max_new_tokens=10**6, min_new_tokens=10**6, modalities=("text",), seed=2)
    (answer,) = ENGINE.generate([QUESTIONS[1]], endless)
    context = MODEL.system.backbone.context
    assert (len(answer.tokens), answer.finish) == (context - len(ENGINE.sample(QUESTIONS[1])), "length")
