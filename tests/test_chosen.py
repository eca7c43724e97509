"""Encoders that keep some cells: features of as many cells as a picture needs go in, codes of the same cells out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import TOKENIZER as PLAIN
from engines import picture
from examples import CLIP, NEXT_GRIDS

from omniform import index
from omniform.cost.parameters import parameters
from omniform.data.choices import Chooser
from omniform.data.codes import Coder
from omniform.data.document import Document, Media, Text
from omniform.data.packing import pack
from omniform.data.processor import Processor, Sample
from omniform.data.tokenizer import HfTokenizer, train_tokenizer
from omniform.encoders.selected import Selected
from omniform.encoders.selected_module import gumbel, noise_of
from omniform.geometry import Flat, Kept, MediaSize, SpecError, Words
from omniform.inference.engine import Engine
from omniform.inference.sampling import GenerationConfig, MediaSampling
from omniform.model import Lmm
from omniform.views.any_res import AnyRes
from omniform.weights import layout, store
from omniform.weights.fill import slots
from omniform.weights.load import load_release

FULL = index.system("lavit")
SPAN = FULL.coded("image").span


def made() -> tuple[Lmm, HfTokenizer]:
    tiny = FULL.shrunk("tiny")
    words = train_tokenizer(["what is this? a red circle, draw a blue square"] * 2, tiny.added_tokens, 330)
    torch.manual_seed(0)
    model: Lmm = tiny.but({"backbone.vocab": words.size}).build()
    for parameter in (*model.backbone.parameters(), *model.inputs.parameters()):
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
    return model.eval(), words


MODEL, WORDS = made()
ENGINE = Engine(MODEL, Processor(MODEL.system, WORDS, Coder(MODEL), Chooser(MODEL)))
IDS = ENGINE.processor.spans["image"]
DRAWN = Document((Text("draw"), Media("image", picture(3), "assistant"), Text("a circle", "assistant")))
ASKED = [
    Document.ask("what is this?", image=picture(0), answer="a circle"),
    Document.ask("is this red?", image=picture(0), answer="a square"),
    Document.ask("what is this?", image=picture(2), answer="a blue square"),
    DRAWN,
    Document((Media("image", picture(4)), Text("draw this red"), Media("image", picture(5), "assistant"))),
    Document.ask("what is red?", answer="this"),
]


def samples() -> list[Sample]:
    return [ENGINE.processor.sample(document) for document in ASKED]


# --- choosing ----------------------------------------------------------------------------------------------------


def test_a_view_always_keeps_the_same_cells() -> None:
    torch.manual_seed(1)
    module = Selected(inner=CLIP).build().eval()
    views = torch.randint(0, 256, (5, 3, 24, 24), dtype=torch.uint8)
    kept = module.choose(views)
    assert torch.equal(kept, module.choose(views)) and torch.equal(kept[3:4], module.choose(views[3:4]))
    assert len({int(own.sum()) for own in kept}) > 1
    assert torch.equal(noise_of(views, 16)[1:2], noise_of(views[1:2], 16))


def test_one_cell_is_kept_where_none_would_be() -> None:
    torch.manual_seed(1)
    module = Selected(inner=CLIP, drawn=False).build()
    features = torch.randn(3, 16, 32)
    torch.nn.init.constant_(module.selector.out_conv[-1].bias[0], -9.0)
    kept = module.kept(features)
    assert kept.sum(1).tolist() == [1, 1, 1]
    keep, drop = module.selector(features).unbind(-1)
    assert torch.equal(kept.int().argmax(1), (keep - drop).argmax(1))


def test_noise_is_gumbels() -> None:
    drawn = gumbel(20000, torch.Generator().manual_seed(0))
    assert float(drawn.mean()) == pytest.approx(0.5772, abs=0.03)
    assert float(drawn.var()) == pytest.approx(1.6449, abs=0.06)


def test_encoders_whose_width_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(SpecError, match="gives 30; use an encoder whose width divides by 4"):
        Selected(inner=CLIP.but(width=30, heads=2))


# --- plans -------------------------------------------------------------------------------------------------------


def test_a_plan_holds_the_most_until_cells_are_chosen() -> None:
    plan = FULL.plan("image", MediaSize(width=640, height=480))
    assert plan.blocks == (Words(SPAN.begin), Flat(0, 256), Words(SPAN.end))
    assert plan.keeping([(3, 200)]).blocks == (Words(SPAN.begin), Kept(0, (3, 200)), Words(SPAN.end))
    assert (plan.positions, plan.keeping([(3, 200)]).positions) == (256, 2)
    tiles = AnyRes(grids=NEXT_GRIDS).plan(MediaSize(width=90, height=40), CLIP.sight(CLIP.cells))
    with pytest.raises(SpecError, match="leaves holes in maps, but the views lay out Mosaic"):
        tiles.keeping([()] * 9)


def test_every_picture_takes_as_many_positions_as_it_keeps() -> None:
    counts = []
    for sample, document in zip(samples()[:3], ASKED, strict=False):
        (item,) = sample.media
        cells = Chooser(MODEL)(replace(item, plan=MODEL.system.plan("image", MediaSize(width=30, height=20))))
        assert item.plan.blocks[1] == Kept(0, cells[0]) and len(item.at) == len(cells[0])
        assert sample.ids[item.at[0] - 1] == IDS.begin and sample.ids[item.at[-1] + 1] == IDS.end
        assert not sample.learn[: item.at[-1] + 2].any() and document.media
        counts.append(len(item.at))
    assert counts[0] == counts[1] != counts[2]
    with pytest.raises(SpecError, match=r"give Processor\(\.\.\., choose=Chooser\(model\)\)"):
        Processor(MODEL.system, WORDS, Coder(MODEL)).sample(ASKED[0])


def test_rows_are_those_of_the_kept_cells() -> None:
    batch = pack(samples()[:3], ENGINE.load)
    stream: Any = MODEL.inputs["image"]
    with torch.no_grad():
        rows = stream(batch.media["image"])
        plans = batch.media["image"].plans
        alone = [stream(pack([s], ENGINE.load).media["image"]) for s in (samples()[0], samples()[2])]
    assert len(rows) == sum(plan.positions for plan in plans)
    assert torch.allclose(rows, torch.cat(alone), atol=1e-5)


# --- packing and learning ----------------------------------------------------------------------------------------


def gradients(losses: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    MODEL.zero_grad()
    sum(loss.total for one in losses for loss in one.values()).backward()  # type: ignore[union-attr]
    return {n: p.grad.clone() for n, p in MODEL.named_parameters() if p.grad is not None}


def test_a_packed_tree_loses_and_learns_what_its_documents_do_alone() -> None:
    given = samples()
    batch = pack(given, ENGINE.load)
    together = MODEL(batch)
    alone = [MODEL(pack([sample], ENGINE.load)) for sample in given]
    for output in ("text", "image"):
        wanted = sum(float(one[output].total.detach()) for one in alone)
        assert float(together[output].total.detach()) == pytest.approx(wanted, rel=1e-5)
    assert float(alone[-1]["image"].weight) == 0  # words alone teach nothing of pictures
    whole, apart = gradients([together]), gradients(alone)
    assert batch.tree.length < sum(map(len, given)) and whole.keys() == apart.keys()
    for name in whole:
        assert torch.allclose(whole[name], apart[name], rtol=1e-3, atol=1e-4), name


def test_another_picture_moves_nothing_elsewhere() -> None:
    def hidden(shade: int) -> torch.Tensor:
        changed = replace(ASKED[2], segments=(Media("image", picture(shade)), *ASKED[2].segments[1:]))
        given = [ENGINE.processor.sample(d) for d in (ASKED[0], changed, ASKED[4])]
        batch = pack(given, ENGINE.load)
        with torch.no_grad():
            out = MODEL.hidden(batch)
        first, _, last = batch.tree.spans
        return torch.cat([out[slice(*first)], out[slice(*last)]])

    assert torch.equal(hidden(1), hidden(7))


def test_what_the_system_said_stands_as_codes() -> None:
    """And is learned by the output of codes; what it is shown stands as features."""
    drawn, both = samples()[3], samples()[4]
    (item,) = drawn.coded
    ids = drawn.ids[item.at].tolist()
    codes = Coder(MODEL)(item).tolist()
    assert ids == [IDS.begin, *IDS.ids_of(codes), IDS.end] and drawn.learn[item.at].all() and not drawn.media
    assert 1 <= len(codes) <= 16 and item.plan.positions == 16
    assert (len(both.media), len(both.coded)) == (1, 1)
    with torch.no_grad():
        losses = MODEL(pack([drawn], ENGINE.load))
    assert losses["image"].weight == len(ids)
    assert losses["text"].weight == drawn.learn.sum() - len(ids)


def test_the_same_cells_are_kept_as_features_and_as_codes() -> None:
    (shown,) = ENGINE.processor.sample(Document.ask("what?", image=picture(3))).media
    (said,) = samples()[3].coded
    assert len(Coder(MODEL)(said)) == shown.plan.positions


# --- writing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [(), (1.0,), (2.5,)])
def test_pictures_of_any_number_of_codes_come_out_whole(guidance: tuple[float, ...]) -> None:
    config = GenerationConfig(
        max_new_tokens=20,
        temperature=2.0,
        first="image",
        seed=4,
        media={"image": MediaSampling(temperature=4.0, guidance=guidance)},
    )
    answers = ENGINE.generate(ASKED, config)
    alone = [ENGINE.generate([document], config)[0].tokens for document in ASKED]
    assert [answer.tokens for answer in answers] == alone
    counts = set()
    for answer in answers:
        tokens, end = list(answer.tokens), answer.tokens.index(IDS.end)
        assert tokens[0] == IDS.begin and {*tokens[1:end]} <= {*IDS.codes}
        counts.add(end - 1)
        first = answer.segments[0]
        assert isinstance(first, Media) and first.source.size == (16, 16)  # type: ignore[union-attr]
    assert min(counts) >= IDS.least == 1 and max(counts) <= IDS.most == 12
    assert len(counts) > 1 or guidance != (1.0,)


def test_published_bounds_hold_at_full_size() -> None:
    assert (SPAN.least, SPAN.most) == (20, 200)
    assert len(FULL.added_tokens) == 16384 + 2 and FULL.backbone.vocab == 48386


def test_a_streamed_picture_is_one_segment() -> None:
    config = GenerationConfig(max_new_tokens=16, temperature=1.0, modalities=("image",), seed=2)
    (only,) = ENGINE.stream(Document.ask("draw"), config)
    assert isinstance(only, Media) and only.modality == "image"


# --- one encoder for both ----------------------------------------------------------------------------------------


def test_the_codec_reads_with_the_inputs_encoder(tmp_path: Path) -> None:
    codec: Any = MODEL.codecs["image"]
    stream: Any = MODEL.inputs["image"]
    assert codec.encoder is stream.encoder
    assert sum(parameters(MODEL.system).values()) == sum(p.numel() for p in MODEL.parameters())
    store.save(MODEL, tmp_path / "saved")
    loaded: Any = store.load(tmp_path / "saved")
    assert loaded.codecs["image"].encoder is loaded.inputs["image"].encoder
    assert all(torch.equal(a, b) for a, b in zip(MODEL.parameters(), loaded.parameters(), strict=True))


def test_a_codec_beside_another_encoder_has_its_own() -> None:
    system = MODEL.system.but({"inputs.image.encoder.drawn": False})
    model: Any = system.build()
    assert model.codecs["image"].encoder is not model.inputs["image"].encoder
    assert sum(parameters(system).values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("variant", ["", "v1"])
def test_a_release_of_single_files_is_read(tmp_path: Path, variant: str) -> None:
    """As it lies on the hub: files of one folder beside each other, a lone tensor among them."""
    torch.manual_seed(0)
    model: Lmm = (FULL.variant(variant) if variant else FULL).shrunk("tiny").build()
    held: dict[str, dict[str, torch.Tensor]] = {}
    for name in slots(model).shapes:
        place = layout.place_of(name, model.system)
        folder, _, key = place.key.partition("/")
        where, key = (place.repository, place.key) if place.repository else (f"{folder}/pytorch_model.bin", key)
        file = where if where.endswith(".bin") else f"{where}/diffusion_pytorch_model.bin"
        held.setdefault(file, {})[key] = model.state_dict()[name]
    for file, tensors in held.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        torch.save(tensors.get("", tensors), tmp_path / file)
    assert "visual_tokenizer/tokenizer_encoder.bin" in held and len(held) == (8 if variant else 7)
    loaded = load_release(model.system, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_systems_that_say_no_codes_go_on_reading_what_they_said() -> None:
    llava = index.system("llava-1.5").shrunk("tiny")
    sample = Processor(llava, PLAIN).sample(Document((Text("a"), Media("image", picture(0), "assistant"))))
    assert len(sample.media) == 1 and not sample.coded
