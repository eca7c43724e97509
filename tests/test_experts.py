"""Routed experts: the original gate's numbers, what attaching changes, packing, stages, losses, costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from omniform import index
from omniform.backbones.decoder import Decoder
from omniform.backbones.llama import LLAMA_7B
from omniform.backbones.mixtral import MIXTRAL_8X7B
from omniform.backbones.opt import OPT_2_7B
from omniform.backbones.phi import PHI_2
from omniform.backbones.qwen import QWEN_1_8B
from omniform.backbones.stablelm import STABLELM_2_1_6B
from omniform.batch import Batch, Node, Notes, Tree
from omniform.experts.routed import Routed
from omniform.experts.routed_module import Rooms, balance, draw, route
from omniform.geometry import SpecError
from omniform.model import Lmm
from omniform.routing import Experts

TIGHT = Routed(capacity=0.6, eval_capacity=0.6)
"""Drops a good part of all positions."""
EXAMPLES: tuple[Experts, ...] = (
    Routed(), TIGHT, Routed(chosen=1, every=1, balance=0.0), Routed(experts=3, chosen=2, capacity=None, noise=False),
)  # fmt: skip
BACKBONES = {s.title: s.shrunk("tiny").but(layers=3) for s in (LLAMA_7B, PHI_2, QWEN_1_8B, STABLELM_2_1_6B)}
PHI = BACKBONES["Phi-2"]


def build(spec: Decoder) -> Any:
    """A module whose experts differ."""
    torch.manual_seed(0)
    module = spec.build().eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def read(module: Any, embeds: Tensor, tree: Tree, notes: Notes | None = None) -> Tensor:
    return module(embeds, tree.depth, tree, None, **({} if notes is None else {"notes": notes}))


# --- the gate ------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor(
    [[-0.2, 0.7, -1.6], [0.1, 1.3, -0.6], [3.2, -3.2, 0.8], [1.2, 1.5, -0.1], [-0.7, 1.0, -0.2], [-3.6, 1.0, 0.4],
     [0.7, 2.7, 0.7], [0.0, 1.5, -0.2]]
)  # fmt: skip
TOP_2 = [
    [0.2891, 0.7109, 0], [0.2315, 0.7685, 0], [0.9168, 0, 0.0832], [0.4256, 0.5744, 0], [0, 0.7685, 0.2315], [0, 0, 1],
    [0, 0, 0], [0, 0, 0],
]  # fmt: skip
"""microsoft/DeepSpeed@v0.9.5 sharded_moe.py top2gating(LOGITS, 0.75, 0) without noise; room for 4 positions."""


def test_top_2_with_dropped_positions_is_the_original_s() -> None:
    routing = route(LOGITS, 2, Rooms((8,), 0.75 * 2))
    assert torch.allclose(routing.weights, torch.tensor(TOP_2), atol=1e-4)
    assert balance(LOGITS, routing.first, Tree.of([8])).item() == pytest.approx(1.6382551, rel=1e-6)


def test_top_1_keeps_probabilities_and_drops_the_least_urgent() -> None:
    probs = LOGITS.softmax(1)
    first = route(LOGITS, 1, Rooms((8,), 1.0)).weights
    assert (first > 0).nonzero().tolist() == [[0, 1], [1, 1], [2, 0], [3, 1]]  # room for 3, in order
    assert torch.equal(first[first > 0], probs[first > 0])
    urgent = torch.linspace(0, 1, 8)[:, None].expand(8, 3)
    last = route(LOGITS, 1, Rooms((8,), 1.0), urgent).weights
    assert (last > 0).nonzero()[:, 0].tolist() == [2, 5, 6, 7]


def test_room_is_rounded_up_and_at_least_what_is_said() -> None:
    assert Rooms((8, 1, 5), 1.5).capacity(3, torch.device("cpu")).tolist() == [4, 1, 3]
    assert Rooms((8, 1, 5), 1.5, least=4).capacity(3, torch.device("cpu")).tolist() == [4, 4, 4]


def test_noise_moves_only_the_further_choices() -> None:
    torch.manual_seed(0)
    plain, noisy = route(LOGITS, 2, None), route(LOGITS, 2, None, 5 * draw(LOGITS, 2))
    assert torch.equal(plain.first, noisy.first)
    assert not torch.equal(plain.weights > 0, noisy.weights > 0)
    assert torch.allclose(noisy.weights.sum(1), torch.ones(8))


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(SpecError, match="5 of 4 experts are chosen"):
        Routed(chosen=5)
    with pytest.raises(ValueError, match="has no mlp in whose place experts could stand"):
        OPT_2_7B.shrunk("tiny").but(moe=Routed()).build()


# --- attached to a language model ----------------------------------------------------------------------------------


def test_every_kind_of_experts_has_an_example() -> None:
    assert {type(e).__name__ for e in EXAMPLES} == set(index.declarations("experts"))


@pytest.mark.parametrize("experts", EXAMPLES, ids=repr)
@pytest.mark.parametrize("name", BACKBONES)
def test_attached_they_are_what_is_declared_and_detached_nothing_is_left(name: str, experts: Experts) -> None:
    spec = BACKBONES[name].but(moe=experts)
    module = spec.build().eval()
    assert sum(p.numel() for p in module.parameters()) == spec.num_params()
    assert sum(p.numel() for p in module.experts.parameters()) == spec.experts_params()
    assert set(module.experts.layers) == {str(i) for i in experts.layers(3)}
    embeds, tree = torch.randn(9, 32), Tree.of([9])
    module.experts.joined = True
    joined = read(module, embeds, tree)
    module.experts.detach()
    plain = BACKBONES[name].build().eval()
    plain.load_state_dict({f"lm.{k}": v for k, v in module.lm.state_dict().items()})  # a plain language model's keys
    assert torch.equal(read(module, embeds, tree), read(plain, embeds, tree))
    assert torch.equal(joined, read(plain, embeds, tree))


@pytest.mark.parametrize("name", BACKBONES)
def test_copies_compute_what_the_mlp_does(name: str) -> None:
    module = build(BACKBONES[name].but(moe=Routed()))
    module.experts.spread()
    embeds, tree = torch.randn(9, 32), Tree.of([9])
    routed = read(module, embeds, tree)
    module.experts.joined = True
    assert torch.allclose(routed, read(module, embeds, tree), atol=1e-5)


# --- packing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experts", EXAMPLES[:3], ids=repr)
@pytest.mark.parametrize("name", BACKBONES)
def test_documents_of_a_pack_compute_what_they_compute_alone(name: str, experts: Routed) -> None:
    module = build(BACKBONES[name].but(moe=replace(experts, noise=False, eval_capacity=0.6)))
    lengths = (5, 17, 1, 30)
    embeds = torch.randn(sum(lengths), 32, requires_grad=True)
    together = read(module, embeds, Tree.of(lengths))
    parts = [read(module, x, Tree.of([len(x)])) for x in embeds.split(lengths)]
    assert torch.allclose(together, torch.cat(parts), atol=1e-5)
    gradients = [
        torch.autograd.grad(x.square().sum(), (embeds, *module.parameters()), allow_unused=True)
        for x in (together, torch.cat(parts))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours - theirs).abs().max() <= 1e-4 * max(float(theirs.abs().max()), 1.0)


def test_a_document_does_not_see_its_neighbours_at_all() -> None:
    module = build(PHI.but(moe=TIGHT))
    embeds, tree = torch.randn(40, 32), Tree.of([15, 25])
    other = torch.cat([embeds[:15], torch.randn(25, 32)])
    assert torch.equal(read(module, embeds, tree)[:15], read(module, other, tree)[:15])


def test_positions_over_the_room_are_dropped() -> None:
    """One document of equal positions: all choose the same experts, which have room for some of them."""
    layer = build(PHI.but(moe=Routed(eval_capacity=1.0))).experts.layers["0"]
    out = layer(torch.ones(8, 32), Tree.of([8]), None)
    assert (out == 0).all(1).tolist() == [False] * 4 + [True] * 4
    assert not (layer(torch.ones(8, 32), Tree.of([4, 4]), None) == 0).all(1)[:2].any()
    assert not (layer(torch.ones(8, 32), None, None) == 0).all(1).any()  # decoding: each alone


def test_shared_trunks_are_for_experts_that_drop_nothing() -> None:
    assert Routed().trees and not Routed().trees_in_training  # 2 * 2 of 4 experts: room for all
    assert not TIGHT.trees and Routed(capacity=None).trees_in_training
    spec = PHI.but(moe=TIGHT)
    assert not spec.trees and spec.joined().trees and PHI.but(moe=Routed()).trees
    tree = Tree((Node(0, 6), Node(6, 11, 0), Node(11, 14, 0)))
    with pytest.raises(ValueError, match=r"3 nodes share 1 trunks; pack with trees=False"):
        read(build(PHI.but(moe=TIGHT)), torch.randn(14, 32), tree)


def test_trees_and_their_balance_equal_documents_alone() -> None:
    module = build(PHI.but(moe=Routed()))
    tree = Tree((Node(0, 6), Node(6, 11, 0), Node(11, 14, 0), Node(14, 20)))
    embeds, notes = torch.randn(20, 32), Notes()
    together = read(module, embeds, tree, notes)
    values = []
    for leaf in tree.leaves:
        at = torch.cat([torch.arange(n.start, n.stop) for n in tree.path(leaf)])
        own = Notes()
        alone = read(module, embeds[at], Tree.of([len(at)]), own)
        assert torch.allclose(together[at], alone, atol=1e-5)
        values.append(module.losses(own)["balance"])
    loss = module.losses(notes)["balance"]
    assert loss.weight == 3
    assert loss.total.item() == pytest.approx(sum(v.total.item() for v in values), rel=1e-5)
    assert loss.mean.item() >= 2.0  # two layers, each at least 1


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_checkpointed_layers_route_again_as_they_did() -> None:
    """Noise, tree and balance are the same when a layer is computed again."""
    module = build(PHI.but(moe=Routed(capacity=0.7))).train()
    embeds, tree = torch.randn(20, 32, requires_grad=True), Tree.of([8, 12])

    def gradient() -> tuple[Tensor, ...]:
        torch.manual_seed(7)
        notes = Notes()
        loss = read(module, embeds, tree, notes).square().sum() + module.losses(notes)["balance"].total
        return torch.autograd.grad(loss, (embeds, *module.experts.parameters()))

    expected = gradient()
    module.lm.gradient_checkpointing_enable({"use_reentrant": False})
    for ours, theirs in zip(gradient(), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


# --- losses --------------------------------------------------------------------------------------------------------


def a_batch(lengths: tuple[int, ...]) -> Batch:
    tree = Tree.of(lengths)
    n = tree.length
    return Batch(
        ids=torch.randint(0, 128, (n,)), positions=tree.depth, tree=tree, predict_at=torch.arange(n),
        targets=torch.randint(0, 128, (n,)), weights=torch.ones(n), documents=len(lengths),
    )  # fmt: skip


def test_a_model_gives_the_balance_beside_its_outputs() -> None:
    system = index.system("llava-1.5").shrunk("tiny").but({"backbone": PHI.but(moe=Routed())})
    assert system.loss_weights == {"text": 1.0, "balance": 0.01}
    torch.manual_seed(0)
    losses = Lmm(system).eval()(a_batch((9, 4)))
    assert list(losses) == ["text", "balance"]
    assert losses["balance"].weight == 2
    assert 2.0 <= losses["balance"].mean < 2 * 4  # two layers of four experts
    plain = index.system("llava-1.5").shrunk("tiny")
    assert list(Lmm(plain)(a_batch((9, 4)))) == ["text"]


def test_every_router_and_expert_learns_from_it() -> None:
    module = build(PHI.but(moe=Routed())).train()
    notes = Notes()
    read(module, torch.randn(30, 32), Tree.of([30]), notes)
    module.losses(notes)["balance"].total.backward()
    assert all(bool(layer.router.weight.grad.abs().sum() > 0) for layer in module.experts.layers.values())


def test_experts_without_positions_still_have_gradients() -> None:
    layer = build(PHI.but(moe=Routed())).experts.layers["0"]
    layer(torch.randn(1, 32), Tree.of([1]), None).sum().backward()
    assert all(p.grad is not None for p in layer.experts.parameters())


def test_mixtral_s_router_loss_is_transformers_own() -> None:
    spec = MIXTRAL_8X7B.shrunk("tiny").but(balance=0.02)
    assert spec.losses == {"balance": 0.02} and MIXTRAL_8X7B.losses == {}
    module = build(spec)
    routed: list[Tensor] = []
    for layer in module.lm.model.layers:
        layer.mlp.gate.register_forward_hook(lambda gate, x, _: routed.append(x[0].flatten(0, -2) @ gate.weight.T))
    embeds, tree, notes = torch.randn(21, 32), Tree.of([13, 8]), Notes()
    read(module, embeds, tree, notes)
    expected = [
        load_balancing_loss_func(tuple(r.split([13, 8])[i] for r in routed), spec.experts, spec.chosen) for i in (0, 1)
    ]
    loss = module.losses(notes)["balance"]
    assert loss.total.item() == pytest.approx(sum(e.item() for e in expected), rel=1e-5)
    assert loss.weight == 2


# --- cost ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experts", EXAMPLES, ids=repr)
def test_flops_equal_what_runs(experts: Experts) -> None:
    spec = PHI.but(moe=experts)
    module = spec.build().eval()
    for layer in module.experts.layers.values():
        layer.spec = replace(layer.spec, capacity=None, eval_capacity=None)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        read(module, torch.randn(16, 32), Tree.of([16]))
    linear = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))
    assert linear == pytest.approx(16 * spec.flops_per_position(), rel=1e-6)


def test_active_parameters_are_those_published() -> None:
    """arXiv:2401.15947 table 1: 2.0, 2.2 and 3.6 billion."""
    active = {name: index.system(f"moe-llava{name}").backbone.active_params() for name in ("", ":stablelm-1.6b")}
    assert active == {"": 3618862080, ":stablelm-1.6b": 2059849728}
    assert index.system("moe-llava:qwen-1.8b").backbone.active_params() == 2242725888
    assert MIXTRAL_8X7B.active_params() == 12879925248
