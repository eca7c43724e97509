"""BLIP-2 gives the numbers of transformers' class, weights read in its layout; its Q-Former reads text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Blip2Config, Blip2ForConditionalGeneration

from omniform import index
from omniform.batch import Batch, Features, MediaBatch, Node, Tree
from omniform.connectors.qformer import QFormer
from omniform.connectors.qformer_objectives_module import QFormerObjectives, other
from omniform.encoders.eva_vit import EVA_G_224, EVA_G_364, EvaVit
from omniform.geometry import MediaSize, SpecError
from omniform.model import Lmm
from omniform.prompt import Turn
from omniform.spec import System
from omniform.verify.layout import difference
from omniform.weights.layout import Place
from omniform.weights.load import load_release

QUERIES, IMAGE = 5, 51
LANGUAGE = {
    "opt": {
        "model_type": "opt", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
        "vocab_size": 52, "max_position_embeddings": 64, "word_embed_proj_dim": 32,
    },
    "t5": {
        "model_type": "t5", "d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 6, "d_ff": 48, "vocab_size": 52,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "dense_act_fn": "gelu",
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0,
    },
}  # fmt: skip


def theirs(language: str) -> Any:
    config = Blip2Config(
        vision_config={
            "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": 16, "patch_size": 4,
        },
        qformer_config={
            "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
            "encoder_hidden_size": 24, "cross_attention_frequency": 2,
        },
        text_config=LANGUAGE[language],
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = Blip2ForConditionalGeneration(config).eval()
    if language == "t5":  # as in the releases
        model.language_model.lm_head.weight = torch.nn.Parameter(torch.empty(52, 32))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + ("norm" in name.lower() and name.endswith("weight")))
            if name.endswith("qkv.bias"):
                parameter[24:48] = 0  # keys have no bias
    model.vision_model.post_layernorm.eps = 1e-5  # transformers norms with the encoder's epsilon, the original does not
    return model


def read(reference: Any, folder: Path) -> Lmm:
    """Our model with the weights of transformers', from files."""
    names = Blip2Config.to_dict(reference.config)
    write = {**names, "architectures": ["Blip2ForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(write, default=str))
    state = {key: tensor.clone() for key, tensor in reference.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    model: Lmm = load_release("blip-2", folder)
    return model


def pictures(system: System, pixels: Tensor, starts: list[int]) -> MediaBatch:
    """Each picture at the start of its document."""
    plan = system.plan("image", MediaSize(width=16, height=16))
    at = torch.cat([torch.arange(QUERIES) + start for start in starts])
    return MediaBatch(tuple(pixels[:, None]), (plan,) * len(pixels), at)


@torch.no_grad()
def test_on_opt_the_whole_model_equals_transformers(tmp_path: Path) -> None:
    reference = theirs("opt")
    model = read(reference, tmp_path)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    words = torch.randint(3, 50, (2, 6))
    words[:, 0] = 2
    rows = torch.cat([torch.full((2, QUERIES), IMAGE), words], dim=1)
    wanted = reference(
        pixel_values=model.part("image.encoder").normalise(pixels), input_ids=rows, attention_mask=torch.ones_like(rows)
    )
    length = rows.shape[1]
    media = pictures(model.system, pixels, [0, length])
    places = torch.arange(length).repeat(2)
    hidden = model.hidden(Batch(rows.flatten(), places, Tree.of([length, length]), {"image": media}, documents=2))
    got = model.backbone.logits(hidden).view_as(wanted.logits)
    assert float((got - wanted.logits).abs().max() / wanted.logits.abs().max()) < 1e-5
    queries = model.part("image.connector").read(wanted.vision_outputs.last_hidden_state)
    assert torch.allclose(queries, wanted.qformer_outputs.last_hidden_state, atol=1e-5)


@torch.no_grad()
def test_on_t5_the_whole_model_equals_transformers(tmp_path: Path) -> None:
    reference = theirs("t5")
    model = read(reference, tmp_path)
    assert model.system.prompt == index.system("blip-2:flan-t5-xl").prompt
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    words, answers = torch.randint(3, 50, (2, 6)), torch.randint(3, 50, (2, 4))
    rows = torch.cat([torch.full((2, QUERIES), IMAGE), words], dim=1)
    normal = model.part("image.encoder").normalise(pixels)
    wanted = reference(
        pixel_values=normal, input_ids=rows, attention_mask=torch.ones_like(rows), decoder_input_ids=answers
    )
    asked, said = rows.shape[1], answers.shape[1]
    n = asked + said
    tree = Tree((Node(0, asked), Node(asked, n, 0), Node(n, n + asked), Node(n + asked, 2 * n, 2)))
    ids = torch.cat([rows, answers], dim=1).flatten()
    batch = Batch(ids, tree.depth, tree, {"image": pictures(model.system, pixels, [0, n])}, documents=2)
    got = model.backbone.logits(model.hidden(batch)).view(2, n, -1)[:, asked:]
    assert float((got - wanted.logits).abs().max() / wanted.logits.abs().max()) < 1e-5


def test_ported_sizes_hold_what_transformers_holds() -> None:
    """Every key and shape of transformers' class at full size, both ways."""
    for name, family in (("hf-opt-2.7b", "opt"), ("hf-flan-t5-xl", "t5")):
        system = index.system(f"blip-2:{name}")
        backbone: Any = system.backbone
        config = Blip2Config(text_config={"model_type": family, **backbone.config()})
        with torch.device("meta"):
            held = Blip2ForConditionalGeneration(config).state_dict()
        assert not difference(system, {Place(key): tuple(t.shape) for key, t in held.items()}).size, name


def test_a_release_sizes_the_system() -> None:
    whole = index.system("blip-2")
    text = {"hidden_size": 2560, "ffn_dim": 10240, "num_hidden_layers": 32, "num_attention_heads": 32}
    made = index.release("blip-2", {"vision_config": {}, "qformer_config": {}, "text_config": text})
    assert (made.inputs, made.backbone, made.prompt) == (whole.inputs, whole.backbone, whole.prompt)


# --- the encoder -------------------------------------------------------------------------------------------------


def test_the_encoder_has_the_published_size() -> None:
    assert EVA_G_224.num_params() == 985_894_528
    assert (EVA_G_224.title, EVA_G_224.cells((224, 224))) == ("EVA-CLIP ViT-G/14", (257,))
    assert EVA_G_364.cells((364, 364)) == (677,)
    assert EVA_G_224.but(keep_class=False).cells((224, 224)) == (16, 16)
    assert EVA_G_224.but(image=448, trained_image=224).num_params() == EVA_G_224.num_params()


def test_keys_have_no_bias() -> None:
    module = EVA_G_224.shrunk("tiny").build()
    attention = module.blocks[0].attn
    x = torch.randn(1, 5, 32)
    before = attention(x)
    with torch.no_grad():
        attention.qkv.weight[32:64] = 0  # keys are all the same then, and attention is a mean
        attention.q_bias += 1
    assert torch.allclose(attention(x), attention(x).mean(1, keepdim=True).expand_as(before), atol=1e-5)


def test_what_the_encoder_cannot_do_is_refused() -> None:
    sizes = {"width": 8, "layers": 2, "heads": 2, "mlp_dim": 8, "patch": 4, "image": 8}
    for field in ("post_norm", "drop_first"):
        with pytest.raises(SpecError, match="goes by keep_class, not drop_first"):
            EvaVit(**sizes, **{field: True})


# --- the Q-Former ------------------------------------------------------------------------------------------------

SMALL = QFormer(positions=3, width=16, layers=4, heads=2, mlp_dim=24, dropout=0.0, words=20, longest=8)


def reader(seed: int = 0) -> tuple[Any, QFormerObjectives, Tensor]:
    torch.manual_seed(seed)
    former = SMALL.build(in_dim=12, out_dim=10)
    for parameter in former.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return former, QFormerObjectives(SMALL, 6), torch.randn(2, 7, 12)


def test_parameters_with_text() -> None:
    former, _, _ = reader()
    assert sum(p.numel() for p in former.parameters()) == SMALL.num_params(12, 10)
    assert QFormer().num_params(1408, 2560) == 107_133_696
    assert [SMALL.crosses(i) for i in range(4)] == [True, False, True, False]


def test_words_reach_the_queries_only_where_they_are_seen() -> None:
    former, heads, features = reader()
    words, kept = torch.tensor([[1, 5, 6, 0], [1, 7, 0, 0]]), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    alone = former.read(features)
    blind = torch.ones(2, 1, 7, dtype=torch.bool)
    blind[:, :, 3:] = False
    assert torch.allclose(former.read(features, words, blind)[:, :3], alone, atol=1e-6)
    together = heads.together(former, features, words, kept)
    assert not torch.allclose(together, alone, atol=1e-2)
    padded = words.masked_fill(~kept, 13)  # what stands in the padding changes nothing
    assert torch.allclose(heads.together(former, features, padded, kept), together, atol=1e-6)


def test_a_caption_is_predicted_from_what_precedes_it() -> None:
    former, heads, features = reader()
    words, kept = torch.tensor([[1, 5, 6, 7], [1, 8, 9, 4]]), torch.ones(2, 4, dtype=torch.bool)
    loss = heads(former, features, words, kept)["caption"]
    first = words.clone()
    first[:, 0] = 3  # gives way to the sign that begins a caption
    assert torch.equal(heads(former, features, first, kept)["caption"], loss)
    grads = torch.autograd.grad(loss, former.bert.embeddings["position_embeddings"].weight)[0].abs().sum(1)
    assert (grads[:3] > 0).all() and not grads[3:].any()  # the last word is predicted, never read


def test_other_is_never_the_same() -> None:
    torch.manual_seed(0)
    similarity = torch.eye(4) * 50
    for _ in range(20):
        assert (other(similarity) != torch.arange(4)).all()
    near = torch.tensor([[0.0, 40.0, 0.0], [0.0, 0.0, 40.0], [40.0, 0.0, 0.0]])
    assert other(near).tolist() == [1, 2, 0]


def test_impossible_q_formers_are_refused() -> None:
    with pytest.raises(SpecError, match="width 768 does not divide into 7 heads"):
        QFormer(heads=7)
    with pytest.raises(SpecError, match="cross-attention every 0 layers"):
        QFormer(cross_every=0)


def test_text_needs_no_features() -> None:
    former, heads, _ = reader()
    words, kept = torch.tensor([[1, 5, 2]]), torch.ones(1, 3, dtype=torch.bool)
    unit = heads.texts(former, words, kept)
    assert unit.shape == (1, 3, 6) and torch.allclose(unit.norm(dim=-1), torch.ones(1, 3), atol=1e-5)
    plain = QFormer(positions=2, width=8, layers=2, heads=2, mlp_dim=8).build(in_dim=4, out_dim=4).eval()
    assert plain(Features(torch.randn(3, 5, 4), (5,))).values.shape == (3, 2, 4)


# --- prompts -----------------------------------------------------------------------------------------------------


def words(*turns: Turn, answer_next: bool = False, prompt: Any = None) -> str:
    prompt = prompt or index.system("blip-2").prompt
    return "".join(p.text if p.media is None else "*" for p in prompt.render(turns, answer_next=answer_next))


def test_questions_and_captions_are_written_as_published() -> None:
    picture = Turn("user", (("image", 0), "which city is this?"))
    city, why = Turn("assistant", ("singapore",)), Turn("user", ("why?",))
    assert words(picture, answer_next=True) == "*</s>Question: which city is this? Answer:"
    assert words(picture, city) == "*</s>Question: which city is this? Answer: singapore\n"
    asked = "*</s>Question: which city is this? Answer: singapore. Question: why? Answer:"
    assert words(picture, city, why, answer_next=True) == asked
    caption = index.system("blip-2").stages[0].prompt
    assert words(picture, Turn("assistant", ("a lion",)), prompt=caption) == "*</s>a lion\n"
    photo = index.system("blip-2:coco-opt-2.7b").prompt
    assert words(picture, Turn("assistant", ("a lion",)), prompt=photo) == "*</s>a photo of a lion\n"
    learned = [p.text for p in caption.render([picture, Turn("assistant", ("a lion",))]) if p.learn]
    assert learned == ["</s>", "a lion", "\n"]
