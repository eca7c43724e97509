"""Mamba: transformers' numbers whole and step by step, states, scans in groups, cost."""

import pytest
import torch
from safetensors.torch import save_file
from test_cost import LLAVA, counting, kept_values, unseen
from transformers import MambaConfig, MambaForCausalLM

from omniform import cost, index, scan
from omniform.backbones.mamba import MAMBA_2_8B, Mamba
from omniform.batch import Node, Tree
from omniform.geometry import SpecError
from omniform.scan import Chunks, States
from omniform.training.weights import load_parts
from omniform.weights.plain import load_plain_llm, plain_llm

TINY = MAMBA_2_8B.shrunk("tiny")
SIZES = {
    "released shape": TINY,
    "own rank, no tie": TINY.but(dim=48, rank=7, state=5, tied=False),
    "short convolution": TINY.but(conv=2, expand=3, layers=3),
    "long convolution": TINY.but(conv=6, state=1),
}
TREE = Tree(
    (Node(0, 3), Node(3, 40), Node(40, 41, 1), Node(41, 60, 1), Node(60, 62, 3), Node(62, 99, 3), Node(99, 190))
)


def build(spec):
    torch.manual_seed(0)
    module = spec.build().eval()
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return module


def theirs(spec, module):
    lm = MambaForCausalLM(MambaConfig(**spec.config())).eval()
    lm.load_state_dict(module.lm.state_dict())
    return lm


@pytest.mark.parametrize("length", (1, 3, 70))
@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_whole_prefilled_and_stepwise_equal_transformers(name, length):
    spec = SIZES[name]
    module = build(spec)
    ids = torch.randint(0, spec.vocab, (length + 6,))
    expected = theirs(spec, module)(input_ids=ids[None], use_cache=False).logits[0]
    embeds, positions = module.embed(ids), torch.arange(length + 6)
    whole = module.logits(module(embeds, positions, Tree.of([length + 6])))
    cache = States()
    first = module(embeds[:length], positions[:length], Tree.of([length]), cache)
    more = module.step(embeds[None, length : length + 2], positions[None, length : length + 2], None, cache)[0]
    ones = [module.step(embeds[None, [i]], positions[None, [i]], None, cache)[0] for i in range(length + 2, length + 6)]
    steps = torch.cat([more, *ones])
    assert (whole - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (module.logits(torch.cat([first, steps])) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert cache.columns == length + 6


@torch.no_grad()
def test_states_of_branches_are_those_of_the_whole_documents():
    module, cache = build(TINY), States()
    embeds = torch.randn(TREE.length, TINY.dim)
    module(embeds, TREE.depth, TREE, cache)
    assert cache.lengths == [3, 38, 58, 93, 91]
    for row, leaf in enumerate(TREE.leaves):
        chain = torch.cat([torch.arange(n.start, n.stop) for n in TREE.path(leaf)])
        alone = States()
        module(embeds[chain], torch.arange(len(chain)), Tree.of([len(chain)]), alone)
        for mine, own in zip(cache.of([row]).layers, alone.layers, strict=True):
            assert torch.allclose(mine.inputs, own.inputs, atol=1e-5) and torch.allclose(
                mine.state, own.state, atol=1e-5
            )


@pytest.mark.parametrize("new", (1, 2, 30))
@torch.no_grad()
def test_rows_go_on_by_many_positions_as_they_would_alone(new):
    module, cache = build(SIZES["long convolution"]), States()
    lengths = (1, 40, 9)
    rows = [torch.randn(n + new, 32) for n in lengths]
    tree = Tree.of(lengths)
    module(torch.cat([row[:n] for row, n in zip(rows, lengths, strict=True)]), tree.depth, tree, cache)
    out = module.step(
        torch.stack([r[n:] for r, n in zip(rows, lengths, strict=True)]),
        torch.zeros(3, new, dtype=torch.long),
        None,
        cache,
    )
    for row, n, got in zip(rows, lengths, out, strict=True):
        whole = module(row, torch.arange(n + new), Tree.of([n + new]))[n:]
        assert (got - whole).abs().max() <= 1e-5 * whole.abs().max()
    assert cache.lengths == [1 + new, 40 + new, 9 + new]


@torch.no_grad()
def test_under_autocast_states_stay_precise_and_documents_apart():
    module, embeds = build(TINY), torch.randn(TREE.length, TINY.dim)
    with torch.autocast("cpu", torch.bfloat16):
        packed = module(embeds, TREE.depth, TREE)
        alone = module(embeds[99:], torch.arange(91), Tree.of([91]))
    exact = module(embeds, TREE.depth, TREE)
    assert (packed[99:] - alone).abs().max() <= 1e-2 * exact.abs().max()
    assert (packed - exact).abs().max() <= 3e-2 * exact.abs().max()


@torch.no_grad()
def test_a_step_that_fails_leaves_the_states_before_it(monkeypatch):
    module, cache = build(TINY), States()
    module(torch.randn(5, 32), torch.arange(5), Tree.of([5]), cache)
    kept = cache.layers[0].state.clone()
    monkeypatch.setattr(module.lm.backbone.layers[1], "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.step(torch.randn(1, 1, 32), torch.tensor([[5]]), None, cache)
    assert torch.equal(cache.layers[0].state, kept) and cache.lengths == [5]
    assert cache.keep(5) and not cache.keep(4)


def test_scans_in_groups_of_channels_are_the_same(monkeypatch):
    module = build(TINY).train()
    embeds = torch.randn(TREE.length, TINY.dim, requires_grad=True)

    def gradient():
        (found,) = torch.autograd.grad(module(embeds, TREE.depth, TREE).square().sum(), embeds)
        return found

    whole = gradient()
    monkeypatch.setattr(scan, "VALUES", 10 * Chunks.of(TREE, embeds.device).rows.numel() * TINY.state)
    assert torch.allclose(gradient(), whole, rtol=1e-4, atol=1e-5)


def test_chunks_cover_every_position_once():
    chunks = Chunks.of(TREE, torch.device("cpu"))
    assert torch.equal(chunks.rows.flatten()[chunks.at], torch.arange(TREE.length))
    assert chunks.counts[0] == 3 and sum(chunks.counts) == len(chunks.rows)


def test_a_position_before_a_branch_is_in_its_trunk():
    back = scan.before(TREE, 4, torch.device("cpu"))
    assert back[:, 60].tolist() == [60, 59, 58, 57] and back[:, 41].tolist() == [41, 39, 38, 37]
    assert back[:, 40].tolist() == [40, 39, 38, 37] and back[:, 4].tolist() == [4, 3, 190, 190]


def test_other_settings_are_refused():
    with pytest.raises(SpecError, match="Mamba stands for use_bias=False, the configuration says True"):
        Mamba.from_config({"use_bias": True})
    assert Mamba.from_config(
        {"time_step_rank": "auto", "hidden_size": 2560, "num_hidden_layers": 64}, name="Mamba"
    ) == (MAMBA_2_8B)


@pytest.mark.parametrize("theirs_is_called", ("embeddings", "embedding"))
def test_a_plain_language_model_fills_it(tmp_path, theirs_is_called):
    lm = theirs(TINY, build(TINY))
    lm.save_pretrained(tmp_path)
    if theirs_is_called == "embedding":
        tensors = {k.replace("embeddings", "embedding"): t.clone() for k, t in lm.state_dict().items()}
        save_file(tensors, tmp_path / "model.safetensors")
    else:
        found = plain_llm(tmp_path, name="Mamba")
        assert found == TINY
        load_plain_llm(found.build(), tmp_path)
    model = index.system("cobra").shrunk("tiny").but({"backbone": TINY}).build()
    load_parts(model, {"backbone": str(tmp_path)})
    ours = model.backbone.lm.state_dict()
    assert all(torch.equal(ours[key], tensor) for key, tensor in lm.state_dict().items())


def test_a_release_names_its_size():
    def of(name):
        return index.release("cobra", {"model": {"model_id": name}})

    assert of("cobra+3b") == index.system("cobra")
    assert of("cobra-siglip+3b") == index.system("cobra:siglip")
    with pytest.raises(index.UnknownName, match="no model id of cobra named 'cobra-7b'; did you mean"):
        of("cobra-7b")


# --- cost ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_flops_equal_those_counted_and_the_state_does_not_grow():
    spec = MAMBA_2_8B.but(layers=2, dim=64, vocab=128)
    system, module, cache = LLAVA.but({"backbone": spec}), spec.build().eval(), States()
    module(torch.randn(40, 64), torch.arange(40), Tree.of([40]), cache)
    kept = sum(t.nbytes for layer in cache.layers for t in layer)
    assert cost.kv_cache_bytes(system, 40, dtype_bytes=4) == cost.kv_cache_bytes(system, 4, dtype_bytes=4) == kept
    with counting() as counter:
        module.logits(module.step(torch.randn(1, 1, 64), torch.tensor([[40]]), None, cache)[0])
    assert cost.decode_flops(system, 40) == counter.get_total_flops() + unseen(spec) == cost.decode_flops(system, 4)


@pytest.mark.parametrize("learns", (True, False), ids=("learning", "frozen"))
def test_activations_of_a_layer_are_close_to_what_autograd_keeps(learns):
    spec, kept, n = TINY.but(dim=64), [], 64
    for layers in (1, 2):
        module = spec.but(layers=layers).build().requires_grad_(learns).train()
        kept.append(kept_values(module, torch.randn(n, 64, requires_grad=True), Tree.of([n])))
    assert spec.activation_values(learns) == pytest.approx((kept[1] - kept[0]) / n, rel=0.2)
