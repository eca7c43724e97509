"""Every system's released keys and shapes map onto ours completely, both ways, at full size."""

import pytest
import torch
from goldens import manifest

from omniform import index
from omniform.spec import Joined, Layout, Recast
from omniform.weights import layout
from omniform.weights.adapters import adapter_shapes
from omniform.weights.fill import slots, without_memory
from omniform.weights.layout import CheckpointError, LayoutError, Place
from omniform.weights.recast import apart, as_released, released_shapes

MANIFESTS = [name for name in manifest.manifests() if name.split("__")[0] in index.names("systems")]


def needed(system):
    with without_memory():
        return slots(system.build())


def disagreements(system, held):
    """What the manifest and the system do not share, in the release's words."""
    ours = needed(system)
    beside = {Place(key): shape for key, shape in adapter_shapes(system, ours.shapes).items()}
    adapters = [str(p) for p, shape in beside.items() if held.get(p) != shape]
    held = {p: shape for p, shape in held.items() if p not in beside}
    mapped = {place: layout.key_at(place, system) for place in held}
    here = released_shapes(system, ours.shapes)
    known = {*here, *ours.aliases}
    extra = [str(p) for p, name in mapped.items() if name not in known and not p.key.endswith(layout.BUFFERS)]
    shapes = [str(p) for p, name in mapped.items() if held[p] != here.get(name, held[p])]
    places = {name: layout.place_of(name, system) for name in here}
    told = {place.repository for place in held}
    lost = [str(p) for p in places.values() if p not in held and p.repository in told]
    turned = [name for name, place in places.items() if layout.key_at(place, system) != name]
    return extra + shapes + lost + turned + adapters


def sizes(slug):
    """The system and its other released sizes."""
    whole = index.system(slug)
    yield whole
    yield from (whole.variant(name) for name in whole.variants)


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_released_checkpoint_fits_completely(name):
    held = manifest.read(name)
    found = []
    for system in sizes(name.split("__")[0]):
        found.append(disagreements(system, held))
        if not found[-1]:
            break
    assert min(found, key=len) == []


@pytest.mark.parametrize("slug", index.names("systems"))
def test_every_tensor_has_a_place_and_comes_back(slug):
    for system in sizes(slug):
        small = system.shrunk("tiny")
        names = released_shapes(small, slots(small.build()).shapes)
        places = {name: layout.place_of(name, small) for name in names}
        assert len(set(places.values())) == len(names)
        assert {name: layout.key_at(place, small) for name, place in places.items()} == {n: n for n in names}


def test_manifest_ranges_are_written_out():
    assert manifest.expand("a.{0..2}.b") == ["a.0.b", "a.1.b", "a.2.b"]
    assert manifest.expand("{x,y}.{1..1}") == ["x.1", "y.1"]
    assert manifest.place("[separate openai/clip] vision_model.a") == Place("vision_model.a", "openai/clip")
    keys = manifest.read("llava-1.5")
    assert len(keys) == 686 and sum(torch.Size(s).numel() for s in keys.values()) == 7062902784


RULES = (("tower.", "inputs.image.encoder.model."), ("newline", "inputs.image.learned.newline"), ("", "backbone.lm."))


def test_rules_apply_in_order_and_turn_around():
    pairs = {"tower.a": "inputs.image.encoder.model.a", "newline": "inputs.image.learned.newline", "x": "backbone.lm.x"}
    for released, name in pairs.items():
        assert layout.ours(released, RULES) == name
        assert layout.released(name, RULES) == released
    assert layout.ours("y", RULES[:2]) is None
    assert layout.released("inputs.audio.x", RULES) is None


def test_all_disagreements_are_told_at_once():
    held = {
        "tower.a": (2, 3),
        "x": (4,),
        "tower.new": (1,),
        "rotary_emb.inv_freq": (8,),
        "rotary_pos_emb.inv_freq": (8,),
    }
    wanted = {"inputs.image.encoder.model.a": (2, 4), "inputs.image.learned.newline": (5,), "backbone.lm.x": (4,)}
    found = layout.match(held, wanted, RULES)
    assert found.found == {"inputs.image.encoder.model.a": "tower.a", "backbone.lm.x": "x"}
    assert found.missing == ("inputs.image.learned.newline",)
    assert found.left_over == ("tower.new",)  # the rotary constant is no weight
    assert found.mismatched == {"inputs.image.encoder.model.a": ((2, 3), (2, 4))}
    error = LayoutError("a/b", "mine as released", ("newline",), found.left_over, {"tower.a": ((2, 3), (2, 4))})
    assert str(error) == (
        "a/b does not hold mine as released: 1 missing: newline; 1 left over: tower.new; "
        "1 of another shape: tower.a is [2, 3], needed [2, 4]"
    )
    assert str(LayoutError("f", "s", missing=tuple("abcde"))) == "f does not hold s: 5 missing: a, b, c, ..."


def test_tied_tensors_may_be_held_once_or_twice():
    wanted, aliases = {"backbone.lm.embed": (3, 2)}, {"backbone.lm.head": "backbone.lm.embed"}
    both = layout.match({"embed": (3, 2), "head": (3, 2)}, wanted, RULES, aliases)
    assert (both.found, both.tied) == ({"backbone.lm.embed": "embed"}, {"backbone.lm.embed": "head"})
    only = layout.match({"head": (3, 2)}, wanted, RULES, aliases)
    assert (only.found, only.tied, only.missing) == ({"backbone.lm.embed": "head"}, {}, ())


def test_two_keys_for_one_place_are_refused():
    with pytest.raises(CheckpointError, match=r"both lead to backbone\.lm\.x"):
        layout.match(
            {"x": (1,), "lm.x": (1,)}, {"backbone.lm.x": (1,)}, (("lm.", "backbone.lm."), ("", "backbone.lm."))
        )


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def joining(grouped):
    """A system whose release holds queries, keys and values as one, and a row with two more axes."""
    form = Layout(
        rules=(("llm.", "backbone.lm.model."), ("row", "inputs.image.learned.newline")),
        joined=(Joined(parts=QKV, whole="self_attn.qkv", under="backbone.lm.", grouped=grouped),),
        recast=(Recast(ends=("learned.newline",), form="lone row", divisor=4.0),),
    )
    return index.system("llava-1.5").shrunk("tiny").but({"layout": form, "backbone.kv_heads": 2})


@pytest.mark.parametrize("grouped", [False, True])
def test_joined_tensors_are_taken_apart_and_joined_again(grouped):
    system = joining(grouped)
    stem, first = "backbone.lm.model.layers.1.", 100 * torch.arange(1.0, 4.0)
    rows = (32, 16, 16)
    state = {f"{stem}{part}.weight": a + torch.arange(n)[:, None] for part, a, n in zip(QKV, first, rows, strict=True)}
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    assert released_shapes(system, shapes) == {f"{stem}self_attn.qkv.weight": (64, 1)}
    whole = as_released(system, dict(reversed(state.items())))[f"{stem}self_attn.qkv.weight"]
    group = [*range(100, 116), *range(200, 208), *range(300, 308)]  # a key-value head: two queries, its key, its value
    plain = [*range(100, 132), *range(200, 216), *range(300, 316)]
    assert whole[: 32 if grouped else 64, 0].tolist() == (group if grouped else plain)
    back = dict(apart(system, f"{stem}self_attn.qkv.weight", whole, shapes))
    assert list(back) == list(state) and all(torch.equal(back[n], state[n]) for n in state)
    assert {str(layout.place_of(name, system)) for name in state} == {"llm.layers.1.self_attn.qkv.weight"}


def test_only_what_lies_under_the_prefix_is_joined():
    system = joining(False)
    other = "inputs.image.encoder.layers.0.self_attn.q_proj.weight"
    assert layout.whole_of(other, system) == other
    [(name, values)] = apart(system, other, torch.ones(2), {})
    assert name == other and values.tolist() == [1, 1]


def test_a_lone_row_loses_its_axes_and_is_divided_once():
    system, name = joining(False), "inputs.image.learned.newline"
    assert released_shapes(system, {name: (8,)}) == {name: (1, 1, 8)}
    stored = as_released(system, {name: torch.arange(8.0)})[name]
    assert stored.shape == (1, 1, 8) and stored[0, 0, 7] == 28.0
    assert dict(apart(system, name, stored, {name: (8,)}))[name].tolist() == list(range(8))


def test_a_layout_without_a_rule_is_told():
    system = index.system("llava-1.5")
    with pytest.raises(CheckpointError, match=r"layout of llava-1\.5 says nothing of inputs\.audio\.x"):
        layout.place_of("inputs.audio.x", system)
