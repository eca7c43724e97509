"""What every fusion must do: meet the rows of a document's media, whatever batch it stands in, and leave no trace."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from omniform import index
from omniform.batch import Fused, Node, Placed, State, Tree
from omniform.fusion.adapted_splice import AdaptedSplice
from omniform.fusion.adapter_prompts import AdapterPrompts
from omniform.fusion.attached_module import Attached
from omniform.fusion.gated_cross_attention import GatedCrossAttention
from omniform.fusion.splice import Splice
from omniform.fusion.visual_expert import VisualExpert
from omniform.parts import Backbone, Fusion, SpecError

EXAMPLES: tuple[Fusion, ...] = (
    Splice(),
    VisualExpert(),
    VisualExpert(end_is_text=False, qkv_bias=True),
    AdapterPrompts(length=3, layers=1),
    AdaptedSplice(rank=3, alpha=6.0),
    AdaptedSplice(rank=2, alpha=2.0, layers=("q_proj", "k_proj", "v_proj", "o_proj")),
    GatedCrossAttention(heads=2, head_dim=5),
    GatedCrossAttention(every=2, heads=3, head_dim=4, mlp_ratio=2),
)
BACKBONE = index.system("llava-1.5").shrunk("tiny").backbone


@dataclass(frozen=True, kw_only=True)
class Shift(Fusion):
    """The least that acts before layers: adds something of the last medium that a position sees."""

    implementation = "test_fusion:ShiftModule"
    in_sequence = False

    def width(self, features: int, dim: int) -> int:
        return features

    def num_params(self, backbone: Backbone, width: int) -> int:
        return width * backbone.dim


@dataclass(frozen=True)
class Seen(State):
    shifts: Tensor
    which: Tensor

    def at(self, positions: Tensor) -> Seen:
        return Seen(self.shifts, self.which[0, positions])


class ShiftModule(Attached):
    def __init__(self, spec: Shift, backbone, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, backbone.spec.dim, bias=False)
        self.before_layers(backbone)

    def forward(self, embeds, media: Placed):
        means = [rows.mean(0) for rows in media.rows.split(list(media.counts))]
        shifts = torch.stack([embeds.new_zeros(media.rows.shape[1]), *means])
        return embeds, Seen(shifts, media.tree.last_seen(media.anchors)[None] + 1)

    def before(self, number, hidden, state):
        return hidden + self.proj(state.shifts)[state.which]


FEATURES = 24
"""Width of an encoder's features."""
COUNTS = 3, 2
"""Rows of the first and the second medium."""
TREE = Tree((Node(0, 11), Node(11, 15, 0), Node(15, 21, 0), Node(21, 29), Node(29, 34)))
"""A document about the first medium with two questions, one about the second, and one without media."""
FIRST, SECOND = torch.tensor([2, 3, 6]), torch.tensor([22, 23])
CHAINS = tuple(torch.cat([torch.arange(n.start, n.stop) for n in TREE.path(leaf)]) for leaf in TREE.leaves)
CASES = pytest.mark.parametrize("spec", (*EXAMPLES, Shift()), ids=lambda spec: type(spec).__name__)


def test_every_fusion_has_an_example() -> None:
    assert {type(e).__name__ for e in EXAMPLES} == set(index.declarations("fusion"))


class Case:
    """A backbone with a fusion attached, weights all random, and what enters it."""

    def __init__(self, spec: Fusion) -> None:
        torch.manual_seed(0)
        self.spec, self.backbone = spec, BACKBONE.build().eval()
        self.plain = {name: tensor.clone() for name, tensor in self.backbone.state_dict().items()}
        self.width = spec.width(FEATURES, BACKBONE.dim)
        self.fusion = spec.build(backbone=self.backbone, width=self.width).eval()
        for parameter in self.fusion.parameters():  # also gates that start at zero
            parameter.data += 0.3 * torch.randn_like(parameter)
        self.embeds = torch.randn(TREE.length, BACKBONE.dim, requires_grad=True)
        self.rows = torch.randn(sum(COUNTS), self.width, requires_grad=True)

    def placed(self, first: Tensor, second: Tensor, tree: Tree = TREE, rows: Tensor | None = None) -> Placed:
        """Media whose rows stand at these positions, or are seen from the first of them on."""
        media = [at for at in (first, second) if len(at)]
        anchors = [0 if self.spec.whole_document else int(at[0]) for at in media]
        if self.spec.whole_document and len(media) == 2:
            anchors[1] = TREE.spans[1][0]
        at = torch.cat([torch.arange(0), *media]) if self.spec.in_sequence else torch.arange(0)
        counts = tuple(len(a) for a in media)
        return Placed(self.rows if rows is None else rows, counts, at, torch.tensor(anchors, dtype=torch.long), tree)

    def packed(self, media: Placed | None = None, embeds: Tensor | None = None) -> Tensor:
        return self.run(self.embeds if embeds is None else embeds, media or self.placed(FIRST, SECOND), TREE.depth)

    def run(self, embeds: Tensor, media: Placed, positions: Tensor) -> Tensor:
        x, state = self.fusion(embeds, media)
        return self.backbone(x, positions, media.tree, None, Fused({self.fusion: state}) if state else None)

    def alone(self, number: int) -> Tensor:
        """One document by itself."""
        chain = CHAINS[number]
        first, second = (FIRST, torch.arange(0)) if number < 2 else (torch.arange(0), torch.tensor([1, 2]))
        rows = (self.rows[:3], self.rows[:3], self.rows[3:], self.rows[:0])[number]
        media = self.placed(first, second if number == 2 else second[:0], Tree.of([len(chain)]), rows)
        if self.spec.whole_document:
            media = replace(media, anchors=torch.zeros(len(media.counts), dtype=torch.long))
        return self.run(self.embeds[chain], media, torch.arange(len(chain)))


@CASES
def test_parameters_are_its_own(spec: Fusion) -> None:
    case = Case(spec)
    assert sum(p.numel() for p in case.fusion.parameters()) == spec.num_params(BACKBONE, case.width)
    idle = sum(p.numel() for n, p in case.fusion.named_parameters() if n.startswith(case.fusion.idle() or ("?",)))
    assert spec.learnable_params(BACKBONE, case.width) == spec.num_params(BACKBONE, case.width) - idle
    now = case.backbone.state_dict()
    assert now.keys() == case.plain.keys() and all(torch.equal(now[name], case.plain[name]) for name in now)


@CASES
def test_rows_and_every_parameter_learn(spec: Fusion) -> None:
    case = Case(spec)
    # rows are not read where they stand, but for the last of a medium, which words are predicted from
    unread = [*FIRST[:-1], *SECOND[:-1]] if spec.in_sequence else []
    kept = [i for i in range(TREE.length) if i not in unread]
    case.packed()[kept].square().sum().backward()
    assert case.rows.grad is not None and bool((case.rows.grad != 0).all())
    idle = case.fusion.idle() or ("?",)
    for name, parameter in case.fusion.named_parameters():
        moved = parameter.grad is not None and bool((parameter.grad != 0).any())
        assert moved == (not name.startswith(idle)), name


@CASES
def test_packed_documents_compute_what_each_computes_alone(spec: Fusion) -> None:
    case = Case(spec)
    packed, leaves = case.packed(), [case.alone(i) for i in range(len(CHAINS))]
    for chain, alone in zip(CHAINS, leaves, strict=True):
        assert (packed[chain] - alone).abs().max() < 1e-5
    wanted = [*case.fusion.parameters(), case.rows, case.embeds]
    weights = [torch.randn(len(chain), BACKBONE.dim) for chain in CHAINS]
    together = sum((packed[c] * w).sum() for c, w in zip(CHAINS, weights, strict=True))
    apart = sum((x * w).sum() for x, w in zip(leaves, weights, strict=True))
    pairs = [torch.autograd.grad(loss, wanted, allow_unused=True) for loss in (together, apart)]
    for one, other in zip(*pairs, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one - other).abs().max() <= 1e-4 * max(1, float(other.abs().max()))


@CASES
@torch.no_grad()
def test_a_medium_moves_its_own_document_only(spec: Fusion) -> None:
    case = Case(spec)
    rows = case.rows.clone()
    rows[3:] += 1
    moved = (case.packed(case.placed(FIRST, SECOND, rows=rows)) - case.packed()).abs().amax(1)
    start, stop = TREE.spans[1]
    assert moved[:start].max() == 0 and moved[stop:].max() == 0
    seen = start if spec.whole_document else int(SECOND[0])
    assert moved[start:seen].eq(0).all() and moved[seen:stop].min() > 0


@CASES
@torch.no_grad()
def test_decoding_goes_on_as_the_whole_document(spec: Fusion) -> None:
    from omniform.inference.cache import KeyValues
    from omniform.inference.decoding import Decoding, Place

    case = Case(spec)
    x, state = case.fusion(case.embeds, case.placed(FIRST, SECOND))
    fused, cache = Fused({case.fusion: state}) if state else None, KeyValues()
    case.backbone(x, TREE.depth, TREE, cache, fused)
    decoding = Decoding(case.backbone, cache, Place.of(TREE, (TREE.depth[TREE.lasts] + 1).tolist()), fused)
    tokens = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    decoding.step(tokens[0])
    decoding.keep([0, 2, 3])
    hidden = decoding.step(tokens[1, [0, 2, 3]])
    for number, found in zip((0, 2, 3), hidden, strict=True):
        more = case.backbone.embed(tokens[:, number])
        longer = Case(spec)
        longer.embeds = torch.cat([case.embeds, more])
        at = torch.cat([CHAINS[number], torch.arange(TREE.length, TREE.length + 2)])
        assert (longer_alone(longer, number, at) - found).abs().max() < 1e-5


def longer_alone(case: Case, number: int, chain: Tensor) -> Tensor:
    """Last hidden state of one document with more words."""
    first, second = (FIRST, torch.arange(0)) if number < 2 else (torch.arange(0), torch.tensor([1, 2]))
    rows = (case.rows[:3], case.rows[:3], case.rows[3:], case.rows[:0])[number]
    media = case.placed(first, second if number == 2 else second[:0], Tree.of([len(chain)]), rows)
    if case.spec.whole_document:
        media = replace(media, anchors=torch.zeros(len(media.counts), dtype=torch.long))
    return case.run(case.embeds[chain], media, torch.arange(len(chain)))[-1]


def again_with_layers(lm) -> None:
    """Activation checkpointing, by the name that this version of transformers has for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        lm.gradient_checkpointing_enable({"use_reentrant": False})


@CASES
def test_layers_that_run_again_compute_the_same(spec: Fusion) -> None:
    case = Case(spec)
    case.backbone.train()
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            again_with_layers(case.backbone.lm)
        case.rows.grad = None
        case.packed().square().sum().backward()
        grads.append(case.rows.grad.clone())
    assert (grads[0] - grads[1]).abs().max() <= 1e-6 * grads[0].abs().max()


@CASES
@torch.no_grad()
def test_detached_it_leaves_the_plain_language_model(spec: Fusion) -> None:
    case, plain = Case(spec), BACKBONE.build().eval()
    plain.load_state_dict(case.backbone.state_dict())
    case.fusion.detach()
    expected = plain(case.embeds, TREE.depth, TREE)
    state = case.fusion(case.embeds, case.placed(FIRST, SECOND))[1]
    found = case.backbone(case.embeds, TREE.depth, TREE, None, Fused({case.fusion: state}) if state else None)
    assert torch.equal(found, expected)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in case.backbone.modules())


@CASES
@torch.no_grad()
def test_rows_keep_the_precision_of_the_sequence(spec: Fusion) -> None:
    case = Case(spec)
    x, _ = case.fusion(case.embeds.bfloat16(), case.placed(FIRST, SECOND))
    assert x.dtype == torch.bfloat16


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_a_visual_expert_begins_as_the_language_model_and_can_begin_anew(qkv_bias: bool) -> None:
    case = Case(VisualExpert(qkv_bias=qkv_bias))
    wanted = {name.removeprefix("lm.model."): t for name, t in case.plain.items() if "proj" in name}
    case.fusion.copy(case.backbone)
    found = dict(case.fusion.named_parameters())
    biases = {name: found.pop(name) for name in list(found) if name.endswith("bias")}
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert len(biases) == 3 * BACKBONE.layers * qkv_bias and all(not bias.any() for bias in biases.values())


def test_backbones_say_which_parameters_give_keys_and_values() -> None:
    mamba = index.system("cobra").shrunk("tiny").backbone
    with pytest.raises(SpecError, match="does not say which of its modules give keys and values"):
        mamba.twin_params()
    with pytest.raises(SpecError, match="hangs on attention, which Mamba has none of"):
        VisualExpert().check(mamba)
    grouped = BACKBONE.but(kv_heads=2)
    assert grouped.twin_params() == (2 * 32 * 16, 2 * 32 * 32 + 3 * 32 * 48)
    assert grouped.twin_params(qkv_bias=True) == (2 * 33 * 16, 33 * 32 + 32 * 32 + 3 * 32 * 48)
    fused = index.system("moe-llava:qwen-1.8b").backbone.joined().shrunk("tiny")
    assert fused.twin_params() == (33 * 96, 32 * 32 + 3 * 32 * 48)


def splice() -> Case:
    return Case(Splice())


@pytest.mark.parametrize("rows", [2, 4])
def test_counts_that_differ_are_told(rows: int) -> None:
    media = replace(splice().placed(FIRST, torch.arange(0)), rows=torch.ones(rows, BACKBONE.dim))
    with pytest.raises(ValueError, match=f"placeholder positions: 3, feature rows: {rows}"):
        splice().fusion(torch.zeros(9, BACKBONE.dim), media)


def test_splice_puts_rows_in_order() -> None:
    rows = torch.tensor([[1.0], [2.0], [3.0]]).expand(-1, BACKBONE.dim)
    x, state = splice().fusion(torch.zeros(9, BACKBONE.dim), splice().placed(FIRST, torch.arange(0), rows=rows))
    assert x[:, 0].tolist() == [0, 0, 1, 2, 0, 0, 3, 0, 0] and state is None


def test_the_last_of_some_positions_that_each_sees() -> None:
    assert TREE.last_seen(torch.tensor([2, 12, 22])).tolist() == (
        [-1] * 2 + [0] * 9 + [0] + [1] * 3 + [0] * 6 + [-1] + [2] * 7 + [-1] * 5
    )
    assert TREE.last_seen(torch.arange(0)).tolist() == [-1] * 34
    assert TREE.last_seen(torch.tensor([3, 3]))[3] == 1
    assert TREE.span_of.tolist() == [0] * 21 + [1] * 8 + [2] * 5
