"""Text sees the medium right before it: interleaved documents, packed, with their labels; and tokens that learn."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import releases
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from omniform import index
from omniform.batch import Placed, Tree
from omniform.data.document import Document, Media, Segment, Text
from omniform.data.loader import read_views
from omniform.data.packing import pack
from omniform.data.processor import Sample
from omniform.fusion.gated_cross_attention import GatedCrossAttention
from omniform.fusion.gated_cross_attention_module import Attention
from omniform.fusion.seen_module import Seen
from omniform.geometry import SpecError
from omniform.inference.chat import Chat
from omniform.inference.engine import Engine
from omniform.inference.sampling import GenerationConfig
from omniform.spec import Learn
from omniform.training.freeze import start_learning, stop_learning
from omniform.training.optimizer import make_optimizer
from omniform.training.recipe import resolve_recipe
from omniform.training.setup import Setup, set_up
from omniform.training.stages import StageRun
from omniform.training.state import saved_tensors
from omniform.weights.layout import ours, released
from omniform.weights.load import load_release

SYSTEM = index.system("openflamingo")
CHUNK, IMAGE, _ = SYSTEM.special_tokens
INTERLEAVED = SYSTEM.stages[0].prompt
RED, BLUE, GREEN = (Image.new("RGB", (40, 30), name) for name in ("red", "blue", "green"))


def recipe(**stage: Any) -> Any:
    own = {"data": "few", "batch": 8, "steps": 3, "warmup": 0.0, **stage}
    data = {"few": {"kind": "easy-vqa", "split": "train", "limit": 4}}
    return resolve_recipe(
        {
            "system": "openflamingo",
            "size": "tiny",
            "tokenizer": {"train": 300},
            "stages": {"pretrain": own},
            "data": data,
        }
    )


@pytest.fixture(scope="module")
def setup() -> Setup:
    """A tiny model whose gates stand open."""
    found = set_up(recipe())
    torch.manual_seed(0)
    for name, parameter in found.model.named_parameters():
        if name.endswith("_gate"):
            parameter.data += torch.randn(1)
    return replace(found, model=found.model.eval())


def told(words: str) -> Text:
    return Text(words, "assistant")


def seen(picture: Image.Image) -> Media:
    return Media("image", picture)


def pages() -> list[Document]:
    """Several pictures among words; words before any; two questions about the same pictures; words alone."""
    shared = (seen(RED), Text("what is it?"), told("red"), seen(BLUE))
    segments: list[tuple[Segment, ...]] = [
        (Text("the shape is"), seen(GREEN), told("a green one"), seen(BLUE), told("yes")),
        (*shared, Text("what colour is it?"), told("blue")),
        (*shared, Text("is there a circle?"), told("no")),
        (Text("what is red?"), told("a colour")),
    ]
    return [Document(each, id=str(number)) for number, each in enumerate(segments)]


def samples(setup: Setup, documents: Sequence[Document]) -> list[Sample]:
    return [setup.processor.sample(document, prompt=INTERLEAVED) for document in documents]


def batch(setup: Setup, found: Sequence[Sample], trees: bool = True) -> Any:
    return pack(found, lambda item: read_views(item, setup.system), trees=trees)


# --- which medium a position sees --------------------------------------------------------------------------------


def dense(attention: Attention, x: Tensor, media: Tensor, number: Tensor) -> Tensor:
    """Over the rows of all media at once, under a mask; `number` counts the media up to each position."""
    q = attention.to_q(attention.norm(x)).unflatten(1, (attention.heads, -1)).transpose(0, 1)
    k, v = (
        y.unflatten(1, (attention.heads, -1)).transpose(0, 1)
        for y in attention.to_kv(media.flatten(0, 1)).chunk(2, dim=1)
    )
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    of_row = torch.arange(len(media)).repeat_interleave(media.shape[1]) + 1
    weights = scores.masked_fill(number[:, None] != of_row, -torch.finfo(torch.float32).max).softmax(-1)
    weights = weights.masked_fill((number == 0)[:, None], 0.0)
    return attention.to_out((weights @ v).transpose(0, 1).flatten(1))


def test_attention_equals_one_over_all_media_under_a_mask() -> None:
    torch.manual_seed(0)
    attention = Attention(GatedCrossAttention(heads=3, head_dim=5), 16, 12)
    x, media, anchors = torch.randn(20, 16), torch.randn(3, 4, 12), torch.tensor([4, 5, 13])
    placed = Placed(media.flatten(0, 1), (4, 4, 4), torch.empty(0, dtype=torch.long), anchors, Tree.of([20]))
    number = (torch.arange(20)[:, None] >= anchors).sum(1)
    found = attention(x[None], Seen.of(placed))[0]
    assert (found - dense(attention, x, media, number)).abs().max() < 1e-6
    assert found[:4].eq(0).all() and found[4:].abs().amax(1).min() > 0


def test_decoding_keeps_only_the_media_that_are_still_seen() -> None:
    placed = Placed(
        torch.arange(7.0)[:, None],
        (2, 3, 2),
        torch.empty(0, dtype=torch.long),
        torch.tensor([1, 4, 9]),
        Tree.of([7, 5]),
    )
    state = Seen.of(placed)
    assert state.medium.tolist() == [[-1, 0, 0, 0, 1, 1, 1, -1, -1, 2, 2, 2]]
    later = state.at(torch.tensor([[6, 0], [11, 11]]))
    assert later.medium.tolist() == [[0, -1], [1, 1]] and later.counts == (3, 2)
    assert later.rows[:, 0].tolist() == [2, 3, 4, 5, 6]
    assert state.at(torch.tensor([[0]])).counts == ()


def test_a_picture_takes_one_position_and_is_seen_from_its_sign_on(setup: Setup) -> None:
    sign = setup.tokenizer.id_of(IMAGE)
    for sample, document in zip(samples(setup, pages()), pages(), strict=True):
        assert (sample.ids == sign).nonzero()[0].tolist() == [item.first for item in sample.media]
        assert len(sample.media) == len(document.media) and all(len(item.at) == 0 for item in sample.media)


# --- labels ------------------------------------------------------------------------------------------------------


def learned(ids: Sequence[int], image: int, chunk: int) -> list[bool]:
    """What follows a picture up to the sign that ends its chunk (open_flamingo/train/train_utils.py:120-148)."""
    out, inside = [], False
    for number in ids:
        out.append(inside and number != image)
        inside = (inside or number == image) and number != chunk
    return out


def test_what_follows_a_picture_is_learned_up_to_the_end_of_its_chunk(setup: Setup) -> None:
    words = (Text("some words before"), seen(RED), told("one picture."), seen(BLUE), told("and another"), Text("after"))
    (sample,) = samples(setup, [Document(words)])
    ids = sample.ids.tolist()
    assert sample.learn.tolist() == learned(ids, *(setup.tokenizer.id_of(t) for t in (IMAGE, CHUNK)))
    assert 6 < sum(sample.learn) < len(ids) - 4


def test_questions_are_asked_as_the_original_evaluation_asks() -> None:
    segments = (seen(RED), Text("what is it?"), told("red"), seen(BLUE), Text("and this?"))
    pieces = SYSTEM.prompt.render(Document(segments).turns(), answer_next=True)
    assert "".join(p.text for p in pieces) == (
        "<image>Question:what is it? Short answer:red<|endofchunk|><image>Question:and this? Short answer:"
    )
    assert [p.text for p in pieces if p.learn] == ["red", CHUNK]


# --- packing -----------------------------------------------------------------------------------------------------


def loss_and_gradients(setup: Setup, batches: Sequence[Any]) -> tuple[float, dict[str, Tensor]]:
    setup.model.requires_grad_(True).zero_grad(set_to_none=True)
    total = torch.stack([setup.model(b)["text"].total for b in batches]).sum()
    total.backward()
    grads = {n: p.grad.clone() for n, p in setup.model.named_parameters() if p.grad is not None}
    setup.model.requires_grad_(False)
    return total.item(), grads


@pytest.mark.parametrize("trees", [True, False])
def test_packed_documents_give_the_loss_and_gradients_of_each_alone(setup: Setup, trees: bool) -> None:
    found = samples(setup, pages())
    together = batch(setup, found, trees)
    assert (len(together.tree.nodes), len(together.media["image"].plans)) == ((5, 4) if trees else (4, 6))
    packed, packed_grads = loss_and_gradients(setup, [together])
    alone, grads = loss_and_gradients(setup, [batch(setup, [sample]) for sample in found])
    assert packed == pytest.approx(alone, rel=1e-5)
    assert packed_grads.keys() == grads.keys()
    largest = max(float(g.abs().max()) for g in grads.values())
    assert max(float((packed_grads[n] - g).abs().max()) for n, g in grads.items()) < 1e-5 * largest
    assert any(g.any() for n, g in grads.items() if "connector" in n)


@torch.no_grad()
def test_another_picture_moves_nothing_but_what_follows_it(setup: Setup) -> None:
    documents = pages()
    first = documents[0].segments
    yellow = seen(Image.new("RGB", (40, 30), "yellow"))  # stands where green stood in the batch of distinct pictures
    changed = replace(documents[0], segments=(first[0], yellow, *first[2:]))
    before, after = (
        setup.model.hidden(batch(setup, samples(setup, [one, *documents[1:]]))) for one in (documents[0], changed)
    )
    (sample,) = samples(setup, documents[:1])
    moved = (before - after).abs().amax(1)
    start = sample.media[0].first
    assert moved[:start].max() == 0 and moved[start : len(sample)].min() > 0 and moved[len(sample) :].max() == 0


# --- decoding ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(setup: Setup) -> Engine:
    """Weights large enough that answers depend on pictures."""
    model = copy.deepcopy(setup.model)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return Engine(model, setup.processor)


def test_answers_equal_the_whole_document_read_again(engine: Engine) -> None:
    """Every token is the most likely one where the document with the answer so far is read without a cache."""
    questions = [Document(d.segments[:-1], id=d.id) for d in pages()]
    answers = engine.generate(questions, GenerationConfig(max_new_tokens=6, min_new_tokens=6))
    assert len({answer.tokens for answer in answers}) > 1
    for number, answer in enumerate(answers):
        sample = engine.sample(questions[number])
        whole = sample.followed_by(answer.tokens[:-1])
        with torch.no_grad():
            hidden = engine.model.hidden(pack([whole], engine.load))
        log_probs = engine.model.backbone.logits(hidden[-6:]).log_softmax(-1)
        chosen = log_probs[torch.arange(6), torch.tensor(answer.tokens)]
        assert chosen.tolist() == pytest.approx(answer.log_probs, abs=1e-4)


def test_a_conversation_sees_its_last_picture(engine: Engine) -> None:
    config = GenerationConfig(max_new_tokens=5, min_new_tokens=5)
    chat = Chat(engine, config)
    for words, picture in (("what is it?", RED), ("and now?", None), ("and this?", BLUE), ("sure?", None)):
        media = () if picture is None else (seen(picture),)
        asked = Document((*chat.document.segments, *media, Text(words)))
        answer = chat.ask(words, **({} if picture is None else {"image": picture}))
        (scratch,) = engine.generate([asked], config)
        assert answer.tokens == scratch.tokens
        assert answer.log_probs == pytest.approx(scratch.log_probs, abs=1e-5)
    first = [Document((seen(picture), Text("what is it?"))) for picture in (RED, GREEN)]
    one, two = engine.generate(first, config)
    assert one.log_probs != pytest.approx(two.log_probs, abs=1e-3)


# --- tokens that learn -------------------------------------------------------------------------------------------


def one_step(setup: Setup, stage: StageRun) -> Tensor:
    """Rows of the embedding that an optimizer step changes."""
    table = setup.model.backbone.lm.get_input_embeddings().weight
    before = table.detach().clone()
    learning = start_learning(setup.model, stage, setup.tokenizer.id_of)
    optimizer = make_optimizer(learning, 0.5)
    setup.model(batch(setup, samples(setup, pages())))["text"].mean.backward()
    optimizer.step()
    stop_learning(setup.model, stage, learning)
    return (table != before).any(1).nonzero()[:, 0]


def test_only_the_embeddings_of_two_tokens_move() -> None:
    setup = set_up(recipe())
    stage = setup.recipe.stages[0]
    ids = sorted(setup.tokenizer.id_of(token) for token in (IMAGE, CHUNK))
    assert one_step(setup, stage).tolist() == ids
    whole = recipe(learn={"backbone": {"lr": 1e-3, "tokens": []}}).stages[0]
    assert len(one_step(setup, whole)) > 100


def test_which_rows_learn_must_be_said() -> None:
    setup = set_up(recipe())
    with pytest.raises(ValueError, match=r"embeddings of <\|endofchunk\|>, <image> are to learn: say which rows"):
        start_learning(setup.model, setup.recipe.stages[0])


def test_a_checkpoint_holds_the_embeddings_but_no_frozen_layers(setup: Setup) -> None:
    names = saved_tensors(setup.model, ("backbone", "image.encoder"), setup.recipe.stages).keys()
    assert {n for n in names if n.startswith("backbone.")} == {"backbone.lm.transformer.wte.weight"}
    assert any(".connector." in n for n in names) and any(".fusion.blocks.1." in n for n in names)
    assert not any(".encoder." in n for n in names)


def test_decay_is_a_parts_own() -> None:
    setup = set_up(recipe())
    learning = start_learning(setup.model, setup.recipe.stages[0], setup.tokenizer.id_of)
    decays = [{g["weight_decay"] for g in make_optimizer(learning, 0.1).param_groups}]
    assert decays == [{0.0, 0.1}]
    assert [group.weight_decay for group in learning.groups] == [0.0, None, 0.0]
    stop_learning(setup.model, setup.recipe.stages[0], learning)


def test_a_resolved_recipe_says_which_tokens_learn() -> None:
    stage = recipe().stages[0]
    plain = stage.plain(SYSTEM)["learn"]
    assert plain["image.connector"] == {"lr": 1e-4, "weight_decay": 0.0}
    assert plain["backbone"] == {"lr": 1e-4, "tokens": [CHUNK, IMAGE]}
    assert recipe(learn=plain).stages[0].learn == stage.learn


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Learn(part="image.fusion", lr=1.0, tokens=(IMAGE,)), "learn in the backbone as a whole, not in image.fusion"),
        (Learn(part="backbone", lr=1.0, tokens=(IMAGE,), first_layer=1), "from layer 1 on"),
        (
            Learn(part="backbone", lr=1.0, tokens=("<imag>",)),
            r"no special token .* named '<imag>'; did you mean '<image>'",
        ),
    ],
)
def test_tokens_that_cannot_learn_are_refused(item: Learn, message: str) -> None:
    with pytest.raises((SpecError, LookupError), match=message):
        SYSTEM.but({"stages.pretrain.learn": (item,)})


# --- releases ----------------------------------------------------------------------------------------------------


def test_a_release_without_configuration_is_read_by_its_name(tmp_path, monkeypatch) -> None:
    """One .pt file of what was trained; the tower and the language model's layers lie in other repositories."""
    model = releases.tiny("openflamingo")
    others = releases.publish_as_laid_out(tmp_path, model)
    state = load_file(tmp_path / "model.safetensors")
    kept = {key: t for key, t in state.items() if not key.startswith("vision_encoder.")}
    assert len(kept) < len(state) and "lang_encoder.transformer.wte.weight" in kept
    torch.save(kept, tmp_path / "checkpoint.pt")
    tower = {k.removeprefix("vision_encoder."): t for k, t in state.items() if k not in kept}
    releases.write_safetensors(tmp_path / "tower", {f"visual.{key}": t for key, t in tower.items()})
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).unlink()
    monkeypatch.setattr(index, "system", lambda name: model.system)
    given = {**others, "ViT-L-14": tmp_path / "tower"}
    assert releases.same(load_release("openflamingo:3b", tmp_path, separate=given), model)


def test_names_of_the_older_language_model() -> None:
    layout = SYSTEM.variant("3b").layout
    rules = layout.separate_rules["anas-awadalla/mpt-1b-redpajama-200b"]
    pairs = {
        "transformer.blocks.11.ln_2.weight": "transformer.blocks.11.norm_2.weight",
        "transformer.blocks.1.mlp.mlp_up.weight": "transformer.blocks.1.ffn.up_proj.weight",
        "transformer.blocks.23.attn.q_ln.weight": "transformer.blocks.23.attn.q_ln.weight",
        "transformer.ln_f.weight": "transformer.norm_f.weight",
    }
    for theirs, own in pairs.items():
        assert ours(theirs, rules) == f"backbone.lm.{own}" and released(f"backbone.lm.{own}", rules) == theirs


def test_a_backbone_with_too_few_layers_is_refused() -> None:
    with pytest.raises(SpecError, match="every 40th layer, but the backbone has 32 layers"):
        SYSTEM.but({"inputs.image.fusion.every": 40})
