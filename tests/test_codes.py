"""Media as tokens: read, learned, written; batched equals alone; guidance; the stream of segments."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

from omniform import index
from omniform.backbones.qk_normed_module import SMALLEST
from omniform.cli.main import app
from omniform.codecs.vqgan import MAKE_A_SCENE_512
from omniform.cost.flops import prefill_flops
from omniform.cost.parameters import parameters
from omniform.data.codes import Coder
from omniform.data.document import Document, Media, Segment, Text
from omniform.data.packing import pack
from omniform.data.processor import Processor
from omniform.data.record import write_record
from omniform.data.tokenizer import HfTokenizer, train_tokenizer
from omniform.geometry import MediaSize
from omniform.index import UnknownName
from omniform.inference.decoding import Decoding
from omniform.inference.engine import Engine
from omniform.inference.rows import Answer
from omniform.inference.sampling import GenerationConfig, MediaSampling, SamplingError
from omniform.model import Lmm
from omniform.weights import store
from omniform.weights.recast import recast

FULL = index.system("chameleon")
SPAN = FULL.coded("image").span


def made() -> tuple[Lmm, HfTokenizer]:
    tiny = FULL.shrunk("tiny")
    special = (*tiny.added_tokens, "<reserved08706>")
    words = train_tokenizer(["what is this? a red circle, draw a blue square"] * 2, special, 330)
    torch.manual_seed(0)
    model: Lmm = tiny.but({"backbone.vocab": words.size}).build()
    with torch.no_grad():  # livelier than fresh weights
        for parameter in model.backbone.parameters():
            parameter.mul_(3.0)
    return model.eval(), words


MODEL, WORDS = made()
ENGINE = Engine(MODEL, Processor(MODEL.system, WORDS, Coder(MODEL)))
IDS = ENGINE.processor.spans["image"]
HOT = GenerationConfig(max_new_tokens=24, temperature=3.0, media={"image": MediaSampling(temperature=2.0, top_k=5)})


def picture(shade: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(shade).integers(0, 255, (10, 12, 3), dtype=np.uint8))


DOCUMENTS = [
    Document.ask("what is this?", image=picture(0)),
    Document.ask("draw a blue square"),
    Document.ask("what is that, a circle?", image=picture(0)),
    Document((Text("a"), Media("image", picture(1)), Text("or"), Media("image", picture(2)), Text("draw"))),
]


# --- reading -----------------------------------------------------------------------------------------------------


def test_a_picture_enters_as_its_codes() -> None:
    sample = ENGINE.processor.sample(DOCUMENTS[0])
    codec: Any = MODEL.codecs["image"]
    (item,) = sample.coded
    ids = sample.ids[item.at]
    assert (ids[0], ids[-1]) == (IDS.begin, IDS.end) and len(ids) == 4 + 2
    assert ids.tolist() == WORDS.ids_of([SPAN.begin, *(SPAN.name(c) for c in Coder(MODEL)(item)), SPAN.end])
    assert not sample.learn[item.at].any() and not sample.media
    assert codec.spec.codes((8, 8)) == 4


def test_at_full_size_it_takes_1026_positions() -> None:
    assert FULL.plan("image", MediaSize(width=17, height=900)).positions == 1024
    assert len(FULL.added_tokens) == 8192 + 2


def test_costs_count_codec_and_codes() -> None:
    media = [("image", MediaSize(width=640, height=480))]
    flops = prefill_flops(FULL, media, 10)
    assert flops["image.codec"] == MAKE_A_SCENE_512.flops((512, 512))
    assert flops["backbone"] == prefill_flops(FULL, [], 10 + 1026)["backbone"]
    assert parameters(FULL) == {"image.codec": 68718467, "backbone": 7013666816}


def test_codes_are_computed_once() -> None:
    class Counting(Coder):
        count = 0

        def _encode(self, item: Any) -> Any:
            self.count += 1
            return super()._encode(item)

    coder = Counting(MODEL)
    processor = Processor(MODEL.system, WORDS, coder)
    for document in DOCUMENTS:
        processor.sample(document)
    assert coder.count == 3


def test_questions_about_one_picture_share_its_codes() -> None:
    samples = [ENGINE.processor.sample(d) for d in (DOCUMENTS[0], DOCUMENTS[2])]
    batch = pack(samples, ENGINE.load)
    assert len(batch.ids) < sum(map(len, samples)) and len(batch.tree.nodes) == 3


# --- learning ----------------------------------------------------------------------------------------------------


def test_words_and_codes_are_learned_by_their_own_outputs() -> None:
    drawn = Document((Text("draw"), Media("image", picture(3), "assistant"), Text("a circle", "assistant")))
    samples = [ENGINE.processor.sample(d) for d in (drawn, Document.ask("what?", answer="red"))]
    batch = pack(samples, ENGINE.load)
    with torch.no_grad():
        losses = MODEL(batch)
    assert losses["image"].weight == 6
    assert losses["text"].weight == sum(int(s.learn.sum()) for s in samples) - 6
    together = pack([replace(s, outputs=None) for s in samples], ENGINE.load)
    with torch.no_grad():
        whole = MODEL.part("text.decoder").loss(MODEL.backbone, MODEL.hidden(together), together)
        alone = [MODEL(pack([s], ENGINE.load))["text"].total for s in samples]
    assert torch.allclose(losses["image"].total + losses["text"].total, whole.total, rtol=1e-5)
    assert float(sum(alone)) == pytest.approx(float(losses["text"].total), rel=1e-4)


# --- writing -----------------------------------------------------------------------------------------------------


def check(answer: Answer) -> list[list[int]]:
    """Every span of an answer is whole; the codes of its pictures."""
    tokens, found = list(answer.tokens), []
    while IDS.begin in tokens:
        start = tokens.index(IDS.begin)
        assert not {*tokens[:start]} & {*IDS.codes, IDS.end}
        codes, end = tokens[start + 1 : start + 5], tokens[start + 5]
        assert end == IDS.end and {*codes} <= {*IDS.codes}
        found.append([IDS.codes.index(c) for c in codes])
        tokens = tokens[start + 6 :]
    assert not {*tokens} & {*IDS.codes, IDS.end}
    drawn = [s.source for s in answer.segments if isinstance(s, Media)]
    codec: Any = MODEL.codecs["image"]
    assert [d.tobytes() for d in drawn] == [codec.render(torch.tensor(c)).tobytes() for c in found]  # type: ignore[union-attr]
    return found


def test_200_seeds_at_high_temperature_give_whole_spans_only() -> None:
    pictures = 0
    for seed in range(0, 200, 4):
        config = replace(HOT, seed=seed, max_new_tokens=3 + seed % 23)
        four = [replace(d, id=str(seed + i)) for i, d in enumerate(DOCUMENTS)]
        answers = ENGINE.generate(
            four, replace(config, media={"image": replace(HOT.media["image"], guidance=(1.0, 1.0))})
        )
        pictures += sum(len(check(answer)) for answer in answers)
    assert pictures > 5


@pytest.mark.parametrize(
    "config", [HOT, replace(HOT, first="image"), GenerationConfig(max_new_tokens=14, first="image")]
)
def test_batched_equals_alone(config: GenerationConfig) -> None:
    named = [replace(d, id=str(i)) for i, d in enumerate(DOCUMENTS)]
    together = ENGINE.generate(named, config)
    alone = [ENGINE.generate([d], config)[0] for d in named]
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    assert together[0].tokens == ENGINE.generate(named, config)[0].tokens


def test_media_only_is_one_picture() -> None:
    for answer in ENGINE.generate(DOCUMENTS, replace(HOT, modalities=("image",))):
        assert [type(s) for s in answer.segments] == [Media] and len(answer.tokens) == 6 and answer.finish == "stop"
    texts = ENGINE.generate(DOCUMENTS, replace(HOT, modalities=("text",)))
    assert all(not check(a) for a in texts)


def test_what_cannot_come_is_refused() -> None:
    with pytest.raises(SamplingError, match=r"5 tokens may come, but the medium that is asked for takes 6"):
        ENGINE.generate(DOCUMENTS, replace(HOT, first="image", max_new_tokens=5))
    with pytest.raises(UnknownName, match=r"no output of chameleon named 'audio'"):
        ENGINE.generate(DOCUMENTS, replace(HOT, first="audio"))
    with pytest.raises(SamplingError, match=r"has 2 contexts"):
        ENGINE.generate(DOCUMENTS, replace(HOT, first="image", media={"image": MediaSampling(guidance=(2.0,))}))
    with pytest.raises(SamplingError, match=r"steps 9: image is written as codes, not made by denoising; leave it out"):
        ENGINE.generate(DOCUMENTS, replace(HOT, media={"image": MediaSampling(steps=9)}))


def test_text_streams_and_a_picture_comes_whole() -> None:
    config = replace(HOT, first="image", seed=3, max_new_tokens=30)
    stream = ENGINE.stream(DOCUMENTS[1], config)
    pieces: list[Segment] = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            answer = end.value
            break
    assert isinstance(pieces[0], Media) and len(pieces) > 2
    assert answer.tokens == ENGINE.generate([DOCUMENTS[1]], config)[0].tokens
    assert "".join(p.text for p in pieces if isinstance(p, Text)) == answer.text


def test_guidance_equals_three_whole_forwards() -> None:
    scales = (1.2, 3.0)
    config = GenerationConfig(
        max_new_tokens=6, first="image", media={"image": MediaSampling(temperature=0, guidance=scales)}
    )
    document = DOCUMENTS[3]
    answer = ENGINE.generate([document], config)[0]
    prompt = ENGINE.sample(document).ids.tolist()
    keep = {WORDS.bos_id, IDS.begin, IDS.end, *IDS.codes}
    contexts = [[WORDS.bos_id], [i for i in prompt if i in keep], prompt]
    for n in range(1, 5):
        said = list(answer.tokens[:n])
        rows = [_logits([*context, *said]) for context in contexts]
        mix = rows[0] + scales[0] * (rows[1] - rows[0]) + scales[1] * (rows[2] - rows[1])
        best = max(IDS.codes, key=lambda i: float(mix[i]))
        assert answer.tokens[n] == best


def test_pictures_that_begin_together_are_guided_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, step = list[int](), Decoding.step
    monkeypatch.setattr(Decoding, "step", lambda self, tokens: rows.append(len(tokens)) or step(self, tokens))
    image = MediaSampling(temperature=0, guidance=(1.2, 3.0))
    config = GenerationConfig(max_new_tokens=6, modalities=("image",), media={"image": image})
    ENGINE.generate(DOCUMENTS, config)
    assert rows == [4, 8, 4, 8, 4, 8, 4, 8, 4]  # four answers, and two poorer contexts of each
    rows.clear()
    ENGINE.generate(DOCUMENTS, replace(config, media={"image": replace(image, guidance=(1.0, 3.0))}))
    assert rows == [4, 4, 4, 4, 4, 4, 4, 4, 4]  # a scale of 1 makes the poorest context none


def _logits(ids: list[int]) -> torch.Tensor:
    from omniform.batch import Tree

    tokens = torch.tensor(ids)
    with torch.no_grad():
        hidden = MODEL.backbone(MODEL.backbone.embed(tokens), torch.arange(len(ids)), Tree.of([len(ids)]))
        return MODEL.backbone.logits(hidden[-1])


def test_the_document_and_its_pictures_are_saved(tmp_path: Path) -> None:
    answer = ENGINE.generate([DOCUMENTS[1]], replace(HOT, first="image"))[0]
    folder = tmp_path / "out"
    write_record(Document((*DOCUMENTS[1].segments, *answer.segments, Media("audio", b"RIFFxx", "assistant"))), folder)
    said = json.loads((folder / "document.json").read_text())["messages"]
    items = [item for message in said for item in message["content"]]
    named = [item["path"] for item in items if item["type"] != "text"]
    assert named[0] == "image-1.png" and named[-1].startswith("audio-") and named[-1].endswith(".wav")
    with Image.open(folder / named[0]) as saved:
        assert saved.size == (8, 8)


def test_commands_draw_as_their_options_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(MODEL, tmp_path / "model", tokenizer=WORDS.inner)
    place, out = str(tmp_path / "model"), tmp_path / "out"
    given = ["--modality", "image", "--temperature", "image=2", "--guidance", "image=1.2,3", "--seed", "5"]
    with pytest.raises(SystemExit) as end:
        app(["generate", place, "draw a circle", *given, "--device", "cpu", "--out", str(out), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert end.value.code == 0
    config = GenerationConfig(
        modalities=("image",), seed=5, media={"image": MediaSampling(temperature=2.0, guidance=(1.2, 3.0))}
    )
    (wanted,) = ENGINE.generate([Document.ask("draw a circle")], config)
    name = said["messages"][-1]["content"][0]["path"]
    with Image.open(out / name) as drawn:
        assert drawn.tobytes() == wanted.segments[0].source.tobytes()  # type: ignore[union-attr]
    monkeypatch.setattr("sys.stdin", io.StringIO("draw a circle\n"))
    with pytest.raises(SystemExit):
        app(["chat", place, *given, "--device", "cpu", "--out", str(tmp_path / "talk")])
    assert "[image]" in capsys.readouterr().out
    with Image.open(tmp_path / "talk" / name) as drawn:
        assert drawn.tobytes() == wanted.segments[0].source.tobytes()  # type: ignore[union-attr]


# --- the language model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_after", [False, True])
def test_the_backbone_equals_transformers(norm_after: bool) -> None:
    spec: Any = FULL.shrunk("tiny").backbone
    spec = spec.but(norm_after=norm_after, kv_heads=2)
    torch.manual_seed(0)
    module = spec.build()
    reference = ChameleonForConditionalGeneration(
        ChameleonConfig(**spec.config(), vq_config=dict(SMALLEST), vocabulary_map={})
    ).eval()
    own = {**reference.state_dict(), **module.lm.state_dict()}
    reference.load_state_dict(own)
    ids = torch.arange(7)
    from omniform.batch import Tree

    ours = module.logits(module(module.embed(ids), torch.arange(7), Tree.of([7])))
    assert torch.allclose(ours, reference(ids[None]).logits[0], atol=1e-5)


def test_recast_rotates_pairs_into_halves() -> None:
    system = FULL.variant("7b-original").but({"backbone": FULL.shrunk("tiny").backbone})
    head = torch.arange(8.0)
    assert recast(system, "x.self_attn.q_norm.weight", head)[3].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert recast(system, "x.self_attn.q_norm.weight", head).shape == (4, 8)
    assert recast(system, "x.self_attn.q_proj.weight", torch.arange(32.0)[:, None])[8:16, 0].tolist() == [
        8, 10, 12, 14, 9, 11, 13, 15,
    ]  # fmt: skip
    assert torch.equal(recast(system, "x.self_attn.v_proj.weight", head), head)
