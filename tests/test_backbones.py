"""Every decoder-only backbone: sizes, released configurations, parity with transformers, decoding with a cache."""

import pytest
import torch
from every_backbone import EVERY, NAMED, STACK, TINY_EVERY, TINY_NAMED, TINY_STACK
from released_configs import LONGROPE, RELEASED
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from omniform.backbones.decoder import Decoder
from omniform.backbones.gemma import GEMMA_2B
from omniform.backbones.llama import LLAMA_7B, Llama
from omniform.backbones.mistral import MISTRAL_7B_V01
from omniform.backbones.mpt import MPT_1B, Mpt
from omniform.backbones.opt import OPT_2_7B
from omniform.backbones.phi import PHI_2
from omniform.backbones.phi3 import Phi3
from omniform.backbones.qk_normed import QkNormed
from omniform.backbones.qwen2 import Qwen2
from omniform.backbones.qwen2_axes import SECTIONS
from omniform.batch import Tree
from omniform.geometry import SpecError
from omniform.index import declarations

FAMILIES = {n: c for n, c in declarations("backbones").items() if issubclass(c, Decoder)}
PUBLISHED = {
    "LLAMA_7B": 6738415616, "LLAMA_13B": 13015864320, "LLAMA_33B": 32528943616, "LLAMA_65B": 65285660672,
    "LLAMA_3_8B": 8030261248, "LLAMA_3_70B": 70553706496, "YI_6B": 6061035520, "YI_34B": 34388917248,
    "TINYLLAMA_1_1B": 1100048384, "SMOLLM2_135M": 134515008, "MISTRAL_7B_V01": 7241732096,
    "MIXTRAL_8X7B": 46702792704, "QWEN2_0_5B": 494032768, "QWEN2_1_5B": 1543714304, "QWEN2_7B": 7615616512,
    "QWEN2_72B": 72706203648, "GEMMA_2B": 2506172416, "PHI_1_5": 1418270720, "PHI_2": 2779683840,
    "PHI_3_MINI": 3821079552, "STABLELM_2_1_6B": 1644515328, "OPT_2_7B": 2651596800, "OPT_6_7B": 6658473984,
    "MAMBA_130M": 129135360, "MAMBA_370M": 371516416, "MAMBA_790M": 793204224, "MAMBA_1_4B": 1372178432,
    "MAMBA_2_8B": 2768345600,
    "MPT_7B": 6649286656, "INTERNLM2_20B": 19861149696, "DEEPSEEK_7B": 6910365696, "REDPAJAMA_3B": 2775864320,
    "QWEN_1_8B": 1836828672, "QWEN_7B": 7721324544,
}  # fmt: skip
"""Sum of the released weights (model.safetensors.index.json total_size / bytes, or model cards)."""


def on_meta(spec):
    with torch.device("meta"):
        return spec.build()


@pytest.mark.parametrize("name", STACK)
def test_parameters_at_full_size_and_shrunk_are_exact(name):
    for spec in (EVERY[name], EVERY[name].shrunk("tiny"), EVERY[name].shrunk("nano")):
        module = on_meta(spec)
        assert sum(p.numel() for p in module.parameters()) == spec.num_params()
        prefix = module.layer_prefix()
        first = [p.numel() for n, p in module.named_parameters() if n.startswith(f"{prefix}0.")]
        assert sum(first) == spec.layer_params()
        numbers = {n.removeprefix(prefix).split(".")[0] for n, _ in module.named_parameters() if n.startswith(prefix)}
        assert numbers == {str(i) for i in range(spec.layers)}


@pytest.mark.parametrize("name, total", PUBLISHED.items())
def test_parameters_are_those_published(name, total):
    assert EVERY[name].num_params() == total


@pytest.mark.parametrize("name", TINY_STACK)
def test_linear_modules_are_those_of_the_layer(name):
    spec = TINY_EVERY[name]
    module = on_meta(spec)
    layer = module.get_submodule(f"{module.layer_prefix()}0")
    found = sorted((m.in_features, m.out_features) for m in layer.modules() if isinstance(m, torch.nn.Linear))
    assert found == sorted(pair for pairs in spec.linears().values() for pair in pairs)


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_configuration_becomes_the_named_size_and_back(name):
    _, released = RELEASED[name]
    spec = NAMED[name]
    assert type(spec).from_config(released, name=spec.name) == spec
    theirs = AutoConfig.for_model(**released)
    ours = AutoConfig.for_model(spec.model_type, **spec.config())
    for key in spec.config():
        if not key.endswith("_token_id") and key not in ("attn_config", "head_dim"):
            assert getattr(ours, key) == getattr(theirs, key), key


@pytest.mark.parametrize("name", EVERY)
def test_our_own_configuration_comes_back(name):
    spec = EVERY[name]
    assert type(spec).from_config(spec.config(), name=spec.name) == spec
    small = spec.shrunk("tiny")
    assert type(spec).from_config(small.config(), name=spec.name) == small


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_configuration_leaves_out_is_what_transformers_assumes(name):
    family = FAMILIES[name]
    spec = family.from_config({})
    default = AutoConfig.for_model(family.model_type)
    for key, value in spec.config().items():
        if key == "rope_parameters":
            said = {name: number for name, number in value.items() if name != SECTIONS}
            assert said.items() <= getattr(default, key).items()
        elif not key.endswith("_token_id") and key not in ("attn_config", "head_dim"):
            assert getattr(default, key) == value, key
    assert spec.per_head == getattr(default, "head_dim", None) or spec.dim // spec.heads


def test_a_contradicting_configuration_is_refused():
    with pytest.raises(SpecError, match="Llama stands for hidden_act='silu', the configuration says 'gelu'"):
        Llama.from_config({"hidden_act": "gelu"})
    with pytest.raises(SpecError, match="Qwen2 stands for use_sliding_window=False"):
        Qwen2.from_config({"use_sliding_window": True})
    with pytest.raises(SpecError, match=r"attn_config.clip_qkv=None, the configuration says 6"):
        Mpt.from_config({"attn_config": {"clip_qkv": 6}})


def test_impossible_heads_are_refused():
    with pytest.raises(SpecError, match="32 heads cannot share 5 key-value heads evenly"):
        LLAMA_7B.but(kv_heads=5)
    with pytest.raises(SpecError, match="width 4100 does not divide into 32 heads"):
        LLAMA_7B.but(dim=4100)
    with pytest.raises(SpecError, match=r"0.4 of a head of 8 rotates 3 channels; they must pair up"):
        PHI_2.but(dim=256)


def test_windows_and_scalings_shrink_with_the_context():
    assert MISTRAL_7B_V01.shrunk("tiny").window == 64
    assert MISTRAL_7B_V01.shrunk("nano").window == 256
    longrope = Phi3.from_config(LONGROPE).shrunk("tiny")
    assert longrope.rope_scaling["long_factor"] == (1.0, 1.5, 2.0, 4.0)
    assert longrope.first_context == 16


# --- parity --------------------------------------------------------------------------------------------------------


def build(spec):
    torch.manual_seed(0)
    module = spec.build().eval()
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return module


THEIRS = {n: s for n, s in TINY_NAMED.items() if not getattr(s, "qk_norm", False) and not isinstance(s, QkNormed)}
"""Those that transformers computes too: its MPT has no norm of queries and keys; QkNormed is met in test_codes."""


def plain(state):
    """Weights by transformers' names: Qwen's three projections in one become three."""
    found = {}
    for name, values in state.items():
        three = zip("qkv", values.chunk(3), strict=True) if "c_attn" in name else [("", values)]
        found.update({name.replace("c_attn", f"{letter}_proj"): part for letter, part in three})
    return found


def eager(spec, module):
    """transformers' own model with the same weights and its plainest attention."""
    config = AutoConfig.for_model(spec.model_type, **spec.config())
    theirs = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    theirs.load_state_dict(plain(module.lm.state_dict()))
    return theirs.eval()


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_logits_equal_transformers(name):
    spec = THEIRS[name]
    module = build(spec)
    ids = torch.randint(0, spec.vocab, (90,))
    expected = eager(spec, module)(input_ids=ids[None], use_cache=False).logits[0]
    logits = module.logits(module(module.embed(ids), torch.arange(90), Tree.of([90])))
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("length", (12, 20))
@torch.no_grad()
def test_long_rotary_factors_equal_transformers(length):
    spec = Phi3.from_config(LONGROPE)
    module = build(spec)
    ids = torch.randint(0, spec.vocab, (length,))
    expected = eager(spec, module)(input_ids=ids[None], use_cache=False).logits[0]
    logits = module.logits(module(module.embed(ids), torch.arange(length), Tree.of([length])))
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_gemma_scales_media_rows_like_text():
    module = build(GEMMA_2B.shrunk("tiny"))
    ids = torch.randint(0, 128, (7,))
    rows = module.lm.get_input_embeddings().weight[ids]
    assert torch.equal(module.embed(ids), rows)
    scaled = module.lm.base_model(inputs_embeds=rows[None] * 32**0.5, position_ids=torch.arange(7)[None])
    assert torch.allclose(module(rows, torch.arange(7), Tree.of([7])), scaled.last_hidden_state[0], atol=1e-6)


def test_phi_without_head_bias():
    plain = PHI_2.shrunk("tiny").but(head_bias=False)
    with_bias, without = PHI_2.shrunk("tiny").build(), plain.build()
    assert set(with_bias.lm.state_dict()) - set(without.lm.state_dict()) == {"lm_head.bias"}
    assert PHI_2.num_params() - PHI_2.but(head_bias=False).num_params() == 51200
    assert PHI_2.but(head_bias=False).num_params() == 2779632640


def test_opt_positions_start_behind_two_rows():
    module = OPT_2_7B.shrunk("tiny").build()
    assert module.lm.model.decoder.embed_positions.weight.shape == (514, 32)


def test_mpt_slopes():
    assert MPT_1B.but(heads=8, kv_heads=8).slopes == tuple(2.0**-i for i in range(1, 9))
    assert MPT_1B.but(heads=6, kv_heads=6, dim=48).slopes == tuple(2.0**-i for i in (2, 4, 6, 8, 1, 3))


# --- decoding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY_NAMED)
@torch.no_grad()
def test_decoding_with_a_cache_equals_the_whole_forward(name):
    module = build(TINY_NAMED[name])
    embeds = module.embed(torch.randint(0, 128, (80,)))
    whole = module(embeds, torch.arange(80), Tree.of([80]))
    cache = DynamicCache()
    first = module(embeds[:66], torch.arange(66), Tree.of([66]), cache)
    chunk = module.step(embeds[None, 66:75], torch.arange(66, 75)[None], None, cache)[0]
    ones = [module.step(embeds[None, i : i + 1], torch.tensor([[i]]), None, cache)[0] for i in range(75, 80)]
    got = torch.cat([first, chunk, *ones])
    assert (got - whole).abs().max() <= 1e-5 * whole.abs().max()


@pytest.mark.parametrize("name", TINY_NAMED)
@torch.no_grad()
def test_ends_of_documents_alone_are_what_they_are_among_all(name):
    """And so is the cache: only the last layer's MLP, on which no other position depends, is saved."""
    module, tree = build(TINY_EVERY[name]), Tree.of([5, 9, 4])
    embeds, caches = module.embed(torch.randint(0, 128, (18,))), (DynamicCache(), DynamicCache())
    whole = module(embeds, tree.depth, tree, caches[0])[tree.lasts]
    positions, mlps = [], [m for m in module.layers[-1].modules() if isinstance(m, torch.nn.Linear)]
    handles = [m.register_forward_hook(lambda _, given, __: positions.append(given[0].shape[-2])) for m in mlps]
    with module.last_mlp_at(torch.tensor(tree.lasts)):
        ends = module(embeds, tree.depth, tree, caches[1])[tree.lasts]
    for handle in handles:
        handle.remove()
    assert (ends - whole).abs().max() <= 1e-6 * whole.abs().max()
    for one, other in zip(*(cache.layers for cache in caches), strict=True):
        assert torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)
    assert (3 in positions) == bool(module.spec.mlp_name and module.experts is None)
    assert torch.equal(module(embeds, tree.depth, tree)[tree.lasts], whole)  # nothing stays attached


@pytest.mark.parametrize("left", (True, False), ids=("left", "right"))
@pytest.mark.parametrize("name", TINY_NAMED)
@torch.no_grad()
def test_padded_rows_decode_like_single_ones(name, left):
    """Three prompts of 5, 70 and 66 positions in one batch, padded left or right, then four steps together."""
    module = build(TINY_NAMED[name])
    prompts, steps = (5, 70, 66), 4
    longest = max(prompts)
    rows = [module.embed(torch.randint(0, 128, (n + steps,))) for n in prompts]
    places = [torch.arange(longest - n, longest) if left else torch.arange(n) for n in prompts]

    embeds = torch.randn(3, longest, 32)
    positions = torch.zeros(3, longest, dtype=torch.long)
    real = torch.zeros(3, longest + steps, dtype=torch.bool)
    for i, (row, n, at) in enumerate(zip(rows, prompts, places, strict=True)):
        embeds[i, at], positions[i, at], real[i, at] = row[:n], torch.arange(n), True
    real[:, longest:] = True

    def mask(first, last):
        causal = torch.ones(last, last, dtype=torch.bool).tril()[first:]
        seen = causal & real[:, None, :last] | torch.eye(last, dtype=torch.bool)[first:]
        return torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))[:, None]

    cache = DynamicCache()
    out = [module.step(embeds, positions, mask(0, longest), cache)]
    for step in range(steps):
        new = torch.stack([row[n + step] for row, n in zip(rows, prompts, strict=True)])[:, None]
        at = torch.tensor([[n + step] for n in prompts])
        out.append(module.step(new, at, mask(longest + step, longest + step + 1), cache))
    together = torch.cat(out, 1)

    for i, (row, n, at) in enumerate(zip(rows, prompts, places, strict=True)):
        alone = module(row, torch.arange(n + steps), Tree.of([n + steps]))
        got = torch.cat([together[i, at], together[i, longest:]])
        assert (got - alone).abs().max() <= 1e-5 * alone.abs().max()


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("name", TINY_EVERY)
def test_checkpointed_layers_see_the_tree_again(name):
    """Two forward passes before their backward passes: each recomputation needs its own tree."""
    module = build(TINY_EVERY[name]).train()
    embeds = module.embed(torch.randint(0, 128, (18,))).detach().requires_grad_()

    def gradient():
        trees = Tree.of([5, 9, 4]), Tree.of([11, 7])
        sums = [module(embeds, tree.depth, tree).square().sum() for tree in trees]
        for total in sums:
            total.backward()
        found, embeds.grad = embeds.grad, None
        return found

    expected = gradient()
    module.lm.gradient_checkpointing_enable({"use_reentrant": False})
    assert torch.allclose(gradient(), expected, rtol=1e-4, atol=1e-5)
