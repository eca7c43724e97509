"""Position ids by rule: in packed trees, in decoding and in chats; whole models against transformers' own class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from omniform import index
from omniform.data.document import Document, Media, Text
from omniform.data.packing import pack
from omniform.data.positions import position_ids
from omniform.data.processor import Processor, Sample
from omniform.data.tokenizer import train_tokenizer
from omniform.geometry import Flat, Plan, Positions, SpecError, Volume
from omniform.inference.chat import Chat
from omniform.inference.engine import Engine
from omniform.inference.sampling import GenerationConfig
from omniform.weights.fill import slots
from omniform.weights.layout import match, rules_of

TOKENIZER = train_tokenizer(["what is in the picture ? a red circle"] * 3, index.system("qwen2-vl").special_tokens, 400)
GREEDY = GenerationConfig(max_new_tokens=6, min_new_tokens=6)


def engine(after: str = "largest") -> Engine:
    small = index.system("qwen2-vl").shrunk("tiny")
    small = replace(small, positions=Positions(media="map", after=after)).but(  # type: ignore[arg-type]
        {"backbone.vocab": TOKENIZER.size, "inputs.image.encoder.mlp_dim": 64, "inputs.video.views.min_pixels": 512}
    )
    torch.manual_seed(0)
    model = small.build()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return Engine(model, Processor(small, TOKENIZER))


def picture(seed: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def film(seed: int, frames: int, size: tuple[int, int] = (32, 32)) -> list[Image.Image]:
    return [picture(seed + i, size) for i in range(frames)]


RED = Text("red", "assistant")
DOCUMENTS = {
    "image": Document.ask("what is red?", answer="a circle", image=picture(1)),
    "several": Document(
        (Media("image", picture(2, (64, 40))), Text("a"), Media("image", picture(3)), Text("what?"), RED)
    ),
    "video": Document.ask("what is it?", answer="red", video=film(4, 13)),
    "both": Document((Text("the"), Media("video", film(9, 4)), Media("image", picture(5)), Text("?"), RED)),
    "words": Document.ask("what is red?", answer="a picture"),
}  # fmt: skip


def reference(made: Engine) -> Qwen2VLForConditionalGeneration:
    """transformers' class with our weights, under the keys of either layout."""
    system = made.model.system
    backbone, encoder = system.backbone, system.continuous("image").encoder
    said = {k: v for k, v in backbone.config().items() if not k.endswith("_token_id")}
    vision = {"depth": 3, "embed_dim": 32, "num_heads": 4, "mlp_ratio": 2, "hidden_size": 32, "patch_size": 8}
    theirs = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=said, vision_config=vision)).eval()
    assert encoder.num_params() == sum(
        p.numel() for n, p in theirs.model.visual.named_parameters() if "merger" not in n
    )
    needed, held = slots(made.model), slots(theirs)
    found = match(held.shapes, needed.shapes, rules_of(system), needed.aliases)
    assert not (found.missing or found.left_over or found.mismatched)
    ours = made.model.state_dict()
    theirs.load_state_dict({key: ours[name] for name, key in found.found.items()})
    return theirs


def as_theirs(made: Engine, sample: Sample) -> dict[str, torch.Tensor]:
    """The inputs of transformers' class: patches in blocks of 2 x 2, grids, and which rows are whose."""
    types = torch.zeros(1, len(sample), dtype=torch.long)
    pixels: dict[str, list[torch.Tensor]] = {}
    grids: dict[str, list[list[int]]] = {}
    normalise = made.model.inputs["image"].encoder.normalise
    for item in sample.media:
        types[0, torch.from_numpy(item.at)] = 1 if item.modality == "image" else 2
        x = normalise(made.load(item))
        rows, columns = x.shape[2] // 8, x.shape[3] // 8
        x = x.unflatten(0, (-1, 2)).unflatten(3, (rows // 2, 2, 8)).unflatten(6, (columns // 2, 2, 8))
        pixels.setdefault(item.modality, []).append(x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(0, 4).flatten(1))
        grids.setdefault(item.modality, []).append([len(x), rows, columns])
    config = {m: TOKENIZER.id_of(f"<|{m}_pad|>") for m in ("image", "video")}
    ids = torch.from_numpy(sample.ids)[None].clone()
    for number, name in enumerate(config, 1):
        ids[types == number] = config[name]
    keys = {"image": "pixel_values", "video": "pixel_values_videos"}
    return {
        "input_ids": ids, "mm_token_type_ids": types,
        **{keys[m]: torch.cat(x) for m, x in pixels.items()},
        **{f"{m}_grid_thw": torch.tensor(g) for m, g in grids.items()},
    }  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
@torch.no_grad()
def test_whole_models_equal_transformers(name: str) -> None:
    made = engine("side")
    theirs = reference(made)
    for modality in ("image", "video"):
        setattr(theirs.config, f"{modality}_token_id", TOKENIZER.id_of(f"<|{modality}_pad|>"))
    sample = made.processor.sample(DOCUMENTS[name])
    given = as_theirs(made, sample)
    grids = {key: given[key] for key in ("image_grid_thw", "video_grid_thw") if key in given}
    ids, deltas = theirs.model.get_rope_index(given["input_ids"], given["mm_token_type_ids"], **grids)
    assert torch.equal(torch.from_numpy(sample.positions), ids[:, 0])
    assert int(deltas) == sample.next_position - len(sample)
    wanted = theirs(**given).logits[0]
    batch = pack([sample], made.load)
    found = made.model.backbone.logits(made.model.hidden(batch))
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


# --- packed ------------------------------------------------------------------------------------------------------


def questions() -> list[Document]:
    """Three about one picture, two about one film, one without."""
    film_ = film(20, 9)
    return [
        *(Document.ask(q, answer="red", image=picture(7)) for q in ("what?", "is the circle red?", "a picture")),
        *(Document.ask(q, answer="a", video=film_) for q in ("what?", "the red picture?")),
        DOCUMENTS["words"],
    ]


def test_trees_equal_documents_alone() -> None:
    made = engine()
    samples = [made.processor.sample(document) for document in questions()]
    whole = pack(samples, made.load)
    assert not whole.tree.is_plain and whole.positions.shape == (3, whole.tree.length)
    loss = made.model(whole)["text"].total
    loss.backward()
    packed = {n: p.grad.clone() for n, p in made.model.named_parameters() if p.grad is not None}
    made.model.zero_grad()
    alone = sum(made.model(pack([sample], made.load))["text"].total for sample in samples)
    alone.backward()  # type: ignore[union-attr]
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5)  # type: ignore[union-attr]
    largest = max(float(p.grad.abs().max()) for p in made.model.parameters() if p.grad is not None)
    for name, parameter in made.model.named_parameters():
        if parameter.grad is not None:
            assert (packed[name] - parameter.grad).abs().max() <= 1e-4 * largest, name
    for leaf, sample in zip(whole.tree.leaves, samples, strict=True):
        chain = torch.cat([torch.arange(n.start, n.stop) for n in whole.tree.path(leaf)])
        assert torch.equal(whole.positions[:, chain], torch.from_numpy(sample.positions))


@torch.no_grad()
def test_nothing_leaks_between_documents() -> None:
    made = engine()
    first, second = (made.processor.sample(DOCUMENTS[name]) for name in ("video", "several"))
    other = made.processor.sample(Document.ask("what is it?", answer="red", video=film(40, 13)))
    before = made.model.hidden(pack([first, second], made.load))
    after = made.model.hidden(pack([other, second], made.load))
    assert torch.equal(before[len(first) :], after[len(first) :])
    assert not torch.equal(before[: len(first)], after[: len(first)])


# --- decoding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["largest", "side"])
def test_answers_equal_the_whole_document_read_again(after: str) -> None:
    """Position ids go on behind the media, not at the length of the sequence."""
    made = engine(after)
    asked = [Document(d.segments[:-1]) for d in questions()]
    answers = made.generate(asked, GREEDY)
    for document, answer in zip(asked, answers, strict=True):
        sample = made.sample(document)
        batch = pack([sample.followed_by(answer.tokens[:-1])], made.load)
        if sample.media:
            assert sample.next_position < len(sample)
        with torch.inference_mode():
            logits = made.model.backbone.logits(made.model.hidden(batch)[len(sample) - 1 :])
        assert logits.argmax(-1).tolist() == list(answer.tokens)
        assert made.generate([document], GREEDY)[0].tokens == answer.tokens


def test_a_chat_equals_the_whole_document_from_scratch() -> None:
    made = engine()
    chat = Chat(made, GREEDY)
    for words, media in (("what?", {"video": film(60, 7)}), ("a", {}), ("red?", {"image": picture(8)})):
        before = chat.document
        answer = chat.ask(words, **media)  # type: ignore[arg-type]
        new = [Media(m, source) for m, source in media.items()]  # type: ignore[arg-type]
        (scratch,) = made.generate([Document((*before.segments, *new, Text(words)))], GREEDY)
        assert answer.tokens == scratch.tokens
        assert answer.log_probs == pytest.approx(scratch.log_probs, abs=1e-4)


# --- rules -------------------------------------------------------------------------------------------------------


def test_still_blocks_take_one_id() -> None:
    plan = Plan(views=(), size=(1, 1), blocks=(Flat(0, 4, still=True), Flat(1, 2)))
    for rule in (Positions(), Positions(media="map")):
        ids, after = position_ids(rule, 10, [(plan, np.arange(2, 8))])
        assert ids.reshape(rule.axes, -1)[-1].tolist() == [0, 1, 2, 2, 2, 2, 3, 4, 5, 6]
        assert after == 7


def test_a_medium_at_the_end() -> None:
    plan = Plan(views=(), size=(1, 1), blocks=(Volume(0, 5, (1, 2)),))
    for after, following in (("largest", 6), ("side", 3)):
        rule = Positions(media="map", after=after)  # type: ignore[arg-type]
        ids, found = position_ids(rule, 11, [(plan, np.arange(1, 11))])
        assert found == following
        assert ids[:, -1].tolist() == [5, 1, 2]


def test_a_rule_must_fit_its_backbone() -> None:
    with pytest.raises(SpecError, match="positions of media 'running' have 1 axes, the backbone Qwen2Axes reads 3"):
        replace(index.system("qwen2-vl"), positions=Positions())
