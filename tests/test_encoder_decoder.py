"""Backbones that read a prompt with an encoder and answer with a decoder: parity, packing, data, decoding, cost."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from engines import GREEDY, MIXED_ENDS, NEW, SAMPLED, TOKENIZER, documents, make_engine, picture
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, T5ForConditionalGeneration

from omniform import cost, index
from omniform.backbones.t5 import FLAN_T5_XL, FLAN_T5_XXL, T5
from omniform.batch import Loss, Node, Tree
from omniform.data.document import Document, Media, Text
from omniform.data.packing import pack
from omniform.data.processor import Processor, TooLong
from omniform.geometry import MediaSize, SpecError
from omniform.inference.chat import Chat
from omniform.inference.engine import Engine
from omniform.spec import Lora, Stage
from omniform.training.lora import inject
from omniform.training.setup import grow_vocab

SPEC = FLAN_T5_XL.shrunk("tiny").but(buckets=8, farthest=16)
PROMPTS, ANSWERS = (30, 7, 45), (5, 20, 9)


def build(spec=SPEC):
    torch.manual_seed(0)
    module = spec.build().eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def tree_of(prompts, answers):
    nodes, n = [], 0
    for p, a in zip(prompts, answers, strict=True):
        nodes += [Node(n, n + p), Node(n + p, n + p + a, len(nodes))]
        n += p + a
    return Tree(tuple(nodes))


TREE = tree_of(PROMPTS, ANSWERS)


# --- declaration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec, total", [(FLAN_T5_XL, 2_849_757_184), (FLAN_T5_XXL, 11_135_332_352)])
def test_parameters_are_those_published(spec, total):
    assert spec.num_params() == total
    for size in (spec, spec.shrunk("tiny"), spec.shrunk("nano")):
        with torch.device("meta"):
            module = size.build()
        assert sum(p.numel() for p in module.parameters()) == size.num_params()
        blocks = module.lm.encoder.block[1], module.lm.decoder.block[1]
        counted = [sum(p.numel() for p in block.parameters()) for block in blocks]
        assert counted == [size.encoder_layer_params(), size.decoder_layer_params()]


def test_a_released_configuration_becomes_the_named_size_and_back():
    released = {  # google/flan-t5-xl
        "architectures": ["T5ForConditionalGeneration"], "d_ff": 5120, "d_kv": 64, "d_model": 2048,
        "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0, "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5",
        "n_positions": 512, "num_decoder_layers": 24, "num_heads": 32, "num_layers": 24, "output_past": True,
        "pad_token_id": 0, "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False, "vocab_size": 32128,
    }  # fmt: skip
    assert T5.from_config(released, name="Flan-T5") == FLAN_T5_XL
    exact = FLAN_T5_XL.but(activation="gelu")
    for spec in (FLAN_T5_XL, exact, SPEC):
        assert T5.from_config(spec.config(), name="Flan-T5") == spec
        assert AutoConfig.for_model("t5", **spec.config()).dense_act_fn == spec.activation
    with pytest.raises(SpecError, match="T5 stands for feed_forward_proj='gated-gelu', the configuration says 'relu'"):
        T5.from_config({**released, "feed_forward_proj": "relu"})
    with pytest.raises(SpecError, match="T5 stands for num_decoder_layers=24, the configuration says 6"):
        T5.from_config({**released, "num_decoder_layers": 6})


def test_what_cannot_be_is_refused():
    with pytest.raises(SpecError, match=r"6 buckets up to a distance of 128: give a multiple of 4"):
        FLAN_T5_XL.but(buckets=6)
    with pytest.raises(SpecError, match=r"Flan-T5 has layers in its encoder and in its decoder"):
        FLAN_T5_XL.learnable_params(first_layer=3)


# --- the module --------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_packed_documents_equal_transformers_one_at_a_time(activation):
    spec = SPEC.but(activation=activation)
    module = build(spec)
    theirs = T5ForConditionalGeneration(AutoConfig.for_model("t5", **spec.config())).eval()
    theirs.lm_head.weight = torch.nn.Parameter(torch.empty_like(theirs.lm_head.weight))  # untied, as released
    theirs.load_state_dict(module.lm.state_dict())
    ids = torch.randint(0, spec.vocab, (TREE.length,))
    hidden = module(module.embed(ids), TREE.depth, TREE)
    for node in TREE.nodes:
        if node.parent >= 0:
            prompt = TREE.nodes[node.parent]
            asked, given = (ids[None, n.start : n.stop] for n in (prompt, node))
            expected = theirs(input_ids=asked, decoder_input_ids=given).logits[0]
            got = module.logits(hidden[node.start : node.stop])
            assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_loss_and_gradients_equal_one_document_at_a_time():
    module = build()
    embeds = torch.randn(TREE.length, SPEC.dim, requires_grad=True)
    targets = torch.randint(0, SPEC.vocab, (TREE.length,))

    def loss_of(x, tree, wanted):
        at = torch.cat([torch.arange(n.start, n.stop) for n in tree.nodes if n.parent >= 0])
        return F.cross_entropy(module.logits(module(x, tree.depth, tree)[at]), wanted[at], reduction="sum")

    def gradients(loss):
        return torch.autograd.grad(loss, [embeds, *module.parameters()], allow_unused=True)

    packed = loss_of(embeds, TREE, targets)
    spans = [slice(a, b) for a, b in TREE.spans]
    both = zip(PROMPTS, ANSWERS, spans, strict=True)
    alone = sum(loss_of(embeds[s], tree_of([p], [a]), targets[s]) for p, a, s in both)
    assert packed.item() == pytest.approx(alone.item(), rel=1e-6)
    for got, expected in zip(gradients(packed), gradients(alone), strict=True):
        assert (got is None) == (expected is None)  # the embedding itself is not used here
        assert got is None or (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_nothing_leaks():
    module = build()
    embeds = torch.randn(TREE.length, SPEC.dim)
    before = module(embeds, TREE.depth, TREE)
    for number, node in enumerate(TREE.nodes):
        changed = embeds.clone()
        changed[node.start : node.stop] = torch.randn(node.stop - node.start, SPEC.dim)
        moved = (module(changed, TREE.depth, TREE) - before).abs().amax(1)
        touched = TREE.ancestors[:, number][TREE.node_of]
        assert moved[~touched].max() == 0.0 and moved[touched].min() > 0.0
    last = embeds.clone()
    last[TREE.nodes[1].stop - 1] += 1.0  # answers are read from left to right, prompts both ways
    moved = (module(last, TREE.depth, TREE) - before).abs().amax(1)
    assert moved.nonzero().flatten().tolist() == [TREE.nodes[1].stop - 1]
    last = embeds.clone()
    last[TREE.nodes[0].stop - 1] += 1.0
    assert (module(last, TREE.depth, TREE) - before).abs().amax(1)[: TREE.nodes[1].stop].min() > 0


def test_an_answer_of_an_answer_is_refused():
    tree = Tree((Node(0, 3), Node(3, 5, 0), Node(5, 6, 1)))
    with pytest.raises(ValueError, match="node 2 continues an answer"):
        build()(torch.randn(6, SPEC.dim), tree.depth, tree)


def test_a_larger_vocabulary_grows_embedding_and_head():
    model = index.system("blip-2:flan-t5-xl").shrunk("tiny").build()
    head = model.backbone.lm.lm_head.weight[:128].clone()
    grow_vocab(model, 131, 3)
    lm = model.backbone.lm
    assert lm.shared.weight.shape == lm.lm_head.weight.shape == (131, 32)
    assert lm.encoder.embed_tokens.weight is lm.decoder.embed_tokens.weight is lm.shared.weight
    assert torch.equal(lm.lm_head.weight[:128], head) and not torch.equal(head, lm.shared.weight[:128])


# --- data --------------------------------------------------------------------------------------------------------


def processor(variant="flan-t5-xl"):
    system = index.system(f"blip-2:{variant}").shrunk("tiny").but({"backbone.vocab": TOKENIZER.size})
    return Processor(system, TOKENIZER)


def spoken(ids):
    return TOKENIZER.decode([int(i) for i in ids])


def test_a_document_is_a_prompt_and_an_answer():
    made = processor()
    document = Document((Media("image", picture(1)), Text("what?"), Text("box", "assistant")), "d")
    sample = made.sample(document)
    rows = len(sample.media[0].at)
    assert sample.media[0].at.tolist() == list(range(rows))
    assert spoken(sample.ids[rows : sample.prompt]) == spoken(TOKENIZER.encode("Question: what? Answer:</s>")[0])
    answer = TOKENIZER.encode("box</s>")[0]
    assert sample.ids[sample.prompt :].tolist() == [0, *answer]
    assert sample.learn.tolist() == [False] * (sample.prompt + 1) + [True] * len(answer)
    asked = made.sample(Document(document.segments[:2]), answer_next=True)
    assert asked.ids.tolist() == [*sample.ids[: sample.prompt].tolist(), 0] and asked.prompt == sample.prompt
    batch = pack([sample, sample], lambda item: torch.zeros(1, 3, 8, 8, dtype=torch.uint8), trees=False)
    n, p = len(sample), sample.prompt
    assert batch.tree.nodes == (Node(0, p), Node(p, n, 0), Node(n, n + p), Node(n + p, 2 * n, 2))
    assert batch.predict_at.tolist() == [*range(p, n - 1), *range(n + p, 2 * n - 1)]
    assert batch.targets.tolist() == [*answer, *answer]
    with pytest.raises(ValueError, match=r"its prompt of \d+ positions is read apart .* trees=False"):
        pack([sample, sample], lambda item: torch.empty(0))


def test_a_conversation_is_a_prompt():
    made = processor()
    turns = [Text("what?"), Text("box", "assistant", learn=False), Text("colour?"), Text("red", "assistant")]
    sample = made.sample(Document(tuple(turns)))
    asked = "Question: what? Answer: box. Question: colour? Answer:</s>"
    assert sample.ids[: sample.prompt].tolist() == TOKENIZER.encode(asked)[0]
    assert spoken(sample.ids[sample.learn]) == spoken(TOKENIZER.encode("red</s>")[0])
    turns[1] = Text("box", "assistant")
    with pytest.raises(SpecError, match="2 answers of one conversation are to be learned"):
        made.sample(Document(tuple(turns)))
    with pytest.raises(TooLong, match=rf"its prompt takes {sample.prompt} positions, which leaves none of 4"):
        sample.cut(4)
    assert sample.cut(sample.prompt + 2).truncated == len(sample) - sample.prompt - 2


def test_captions_are_written_as_published():
    photo = processor("coco-flan-t5-xl")
    sample = photo.sample(Document((Media("image", picture(1)), Text("a lion", "assistant"))))
    words = sample.ids[len(sample.media[0].at) : sample.prompt].tolist()
    assert words == TOKENIZER.encode("a photo of</s>")[0]
    stage = index.system("blip-2:flan-t5-xl").stages[0]
    sample = photo.sample(Document((Media("image", picture(1)), Text("a lion", "assistant"))), prompt=stage.prompt)
    assert sample.prompt == len(sample.media[0].at) + len(TOKENIZER.encode("</s>")[0])


def test_a_packed_batch_loses_what_each_document_loses():
    made = processor()
    torch.manual_seed(0)
    model = made.system.build().eval()
    asked = [
        Document((Media("image", picture(p)), Text(f"what{' shape' * q}?"), Text("red box"[q:], "assistant")))
        for p, q in ((1, 0), (1, 2), (2, 1))
    ]
    samples = [made.sample(d) for d in asked]
    views = Engine(model, made).load
    batch, seen = pack(samples, views, trees=False), []
    model.part("image.encoder").register_forward_hook(lambda _m, given, _out: seen.append(len(given[0])))
    packed = model(batch)["text"]
    assert batch.media["image"].same == (0, 0, 2) and seen == [2]  # two of three are about one picture
    alone = [model(pack([s], views, trees=False))["text"] for s in samples]
    assert isinstance(packed, Loss) and packed.weight == sum(x.weight for x in alone)
    assert packed.total.item() == pytest.approx(sum(x.total.item() for x in alone), rel=1e-6)


# --- answers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    return make_engine(FLAN_T5_XL)


@pytest.mark.parametrize("config", [GREEDY, SAMPLED, MIXED_ENDS], ids=["greedy", "sampled", "mixed ends"])
def test_batched_equals_alone(engine, config):
    asked = documents()[::4] + documents()[-3:]
    batched = engine.generate(asked, config)
    for document, answer in zip(asked, batched, strict=True):
        assert engine.generate([document], config)[0].tokens == answer.tokens
    assert len({answer.tokens for answer in batched}) > len(asked) // 2


@torch.no_grad()
def test_decoding_equals_reading_again(engine):
    """Greedy tokens are those of the whole forward over prompt and answer, at every step."""
    document = documents()[5]
    tokens = engine.generate([document], replace(GREEDY, min_new_tokens=NEW))[0].tokens
    sample = engine.sample(document)
    ids = torch.cat([torch.from_numpy(sample.ids), torch.tensor(tokens[:-1])])
    batch = pack([sample], engine.load, trees=False)
    tree = Tree((Node(0, sample.prompt), Node(sample.prompt, len(ids), 0)))
    logits = engine.model.backbone.logits(engine.model.hidden(replace(batch, ids=ids, positions=tree.depth, tree=tree)))
    eos = TOKENIZER.eos_id
    logits[:, eos] = -torch.inf  # min_new_tokens
    assert logits[sample.prompt :].argmax(-1).tolist() == list(tokens)


def test_a_chat_reads_the_whole_prompt_again(engine):
    chat = Chat(engine, GREEDY)
    first = chat.ask("what is in the picture?", image=picture(1))
    second = chat.ask("colour?")
    whole = Document((*chat.document.segments[:-1],))
    assert first.tokens and engine.generate([whole], GREEDY)[0].tokens == second.tokens


# --- cost --------------------------------------------------------------------------------------------------------


@contextmanager
def counting():
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


@torch.no_grad()
def test_costs_equal_those_counted(engine):
    system, document = engine.model.system, Document((Media("image", picture(1)), Text("what? " * 9)))
    sample = engine.sample(document)
    media = [("image", MediaSize(width=30, height=20))]
    words = sample.prompt - len(sample.media[0].at)
    with counting() as counter:
        read = engine.prefill([sample])
        engine.model.backbone.logits(read.hidden)
    assert sum(cost.prefill_flops(system, media, words).values()) == pytest.approx(counter.get_total_flops(), rel=0.02)
    kept = sum(t.nbytes for layer in read.cache.layers[: SPEC.layers] for t in (layer.keys, layer.values))
    assert cost.kv_cache_bytes(system, len(sample), dtype_bytes=4) == kept
    backbone = system.backbone
    with counting() as counter:
        hidden = engine.model.backbone.step(torch.randn(1, 1, 32), torch.tensor([[len(sample)]]), None, read.cache)
        engine.model.backbone.logits(hidden)
    # the cache holds both kinds of keys side by side: each kind of attention also runs over the other's
    over = backbone.attention_flops(1, 2 * (len(sample) + 1)) - backbone.attention_flops(1, sample.prompt + 2)
    claimed = cost.decode_flops(system, sample.prompt) + over
    assert claimed == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_adapters_and_memory():
    stage = Stage(name="tune", learn=(), data="", batch=1, lora=Lora(rank=3, alpha=6, lr=1e-4))
    system = index.system("blip-2:flan-t5-xl").but({"backbone": SPEC, "stages": (stage,)})
    with torch.device("meta"):
        model = system.build()
    assert cost.learning(system, stage) == {"backbone.lora": sum(p.numel() for p in inject(model, stage.lora).values())}


def test_full_size_figures():
    xl = FLAN_T5_XL
    assert xl.kv_bytes_per_position(2) == 2 * 24 * 2048 * 2
    assert xl.read_flops(64) == 64 * xl.flops_per_position() + 4 * 24 * 2048 * (64 * 64 + 65) + (
        xl.answer_flops_per_position()
    )
    assert xl.next_flops(64) - xl.answer_flops_per_position() == 4 * 24 * 2048 * (64 + 2)
