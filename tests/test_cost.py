"""Costs computed from declarations against what real modules have, run and keep."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from every_backbone import TINY_EVERY, TINY_NAMED, rule
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.cache_utils import DynamicCache

from omniform import cost, index
from omniform.backbones.mamba import Mamba
from omniform.backbones.mixtral import Mixtral
from omniform.backbones.mpt import MPT_7B
from omniform.batch import Batch, MediaBatch, Tree
from omniform.geometry import MediaSize, SpecError
from omniform.model import Lmm
from omniform.spec import Continuous, Learn, Lora, Stage
from omniform.training.freeze import parameters_that_learn
from omniform.training.lora import inject

SYSTEMS = index.names("systems")
WITH_FEATURES = [s for s in SYSTEMS if any(isinstance(e, Continuous) for e in index.system(s).inputs.values())]
"""Others encode their media before the model reads them: `test_codes`."""
LLAVA = index.system("llava-1.5")
PICTURE = MediaSize(width=640, height=480)
SOUND = MediaSize(samples=160000, rate=16000)


def media_of(system):
    """One picture, or one medium of the first thing that the system reads."""
    modality = next(m for m, entry in system.inputs.items() if isinstance(entry, Continuous))
    return [(modality, SOUND if modality == "audio" else PICTURE)]


def on_meta(system):
    with torch.device("meta"):
        return Lmm(system)


def document(system, text_positions):
    """One document on random pixels: its media first, then text."""
    (modality, size), *_ = media_of(system)
    entry = system.continuous(modality)
    plan = entry.views.among(1).plan(size, entry.sight())
    shape = (len(plan.views), *entry.encoder.channels, *plan.size)
    pixels = torch.rand(shape) if modality == "audio" else torch.randint(0, 256, shape, dtype=torch.uint8)
    taken = entry.positions(plan)
    n = taken + text_positions
    media = {modality: MediaBatch((pixels,), (plan,), torch.arange(taken), torch.zeros(1, dtype=torch.long))}
    return Batch(ids=torch.zeros(n, dtype=torch.long), positions=torch.arange(n), tree=Tree.of([n]), media=media)


@contextmanager
def counting():
    """PyTorch's FLOP counter, with attention as the matrix products that it counts, also where layers are fused."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


# --- parameters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", SYSTEMS)
def test_parameters_equal_the_module(slug):
    system = index.system(slug).shrunk("tiny")
    model = on_meta(system)
    counted = cost.parameters(system)
    assert sum(counted.values()) == sum(p.numel() for p in model.parameters())
    before = set()  # an encoder that a codec shares counts with the input
    for part, number in counted.items():
        real = sum(p.numel() for p in model.part(part).parameters() if id(p) not in before)
        before |= {id(p) for p in model.part(part).parameters()}
        if part.endswith(".connector"):
            real += sum(p.numel() for p in model.stream(part.split(".")[0]).learned.parameters())
        assert number == real, part


@pytest.mark.parametrize("slug", SYSTEMS)
def test_parameters_are_within_one_percent_of_those_published(slug):
    system = index.system(slug)
    counted = cost.parameters(system)
    counted["total"] = sum(counted.values())
    assert system.published_params
    for part, published in system.published_params.items():
        assert counted[part] == pytest.approx(published, rel=0.01), part


@pytest.mark.parametrize("slug", SYSTEMS)
def test_what_learns_in_each_stage_equals_the_module(slug):
    system = index.system(slug).shrunk("tiny")
    for stage in system.stages:
        model = on_meta(system)
        counted = cost.learning(system, stage)
        real = {
            item.part: sum(p.numel() for p in parameters_that_learn(model, stage, item).values())
            for item in stage.learn
        }
        if stage.lora:
            real["backbone.lora"] = sum(p.numel() for p in inject(model, stage.lora).values())
        assert counted == real, stage.name


@pytest.mark.parametrize("name", TINY_EVERY)
def test_adapters_of_every_backbone_equal_the_module(name):
    stage = Stage(name="tune", learn=(), data="", batch=1, lora=Lora(rank=3, alpha=6, lr=1e-4))
    system = replace(LLAVA, backbone=TINY_EVERY[name], positions=rule(TINY_EVERY[name]), stages=(stage,))
    real = sum(p.numel() for p in inject(on_meta(system), stage.lora).values())
    assert cost.learning(system, stage) == {"backbone.lora": real}


def test_adapters_on_some_layers_equal_the_module():
    lora = Lora(rank=3, alpha=6, lr=1e-4, layers=("q_proj", "down_proj"))
    stage = Stage(name="tune", learn=(), data="", batch=1, lora=lora)
    system = replace(LLAVA, backbone=LLAVA.backbone.shrunk("tiny").but(kv_heads=2), stages=(stage,))
    real = sum(p.numel() for p in inject(on_meta(system), lora).values())
    assert cost.learning(system, stage) == {"backbone.lora": real}
    fused = replace(system, backbone=MPT_7B.shrunk("tiny"))
    with pytest.raises(SpecError, match=r"names of the linear layers of \w+ are not known"):
        cost.learning(fused, stage)


@pytest.mark.parametrize("part, first_layer", [("backbone", 1), ("image.encoder", 1)])
def test_what_learns_from_a_layer_on(part, first_layer):
    system = LLAVA.shrunk("tiny")
    item = Learn(part=part, lr=1e-4, first_layer=first_layer)
    stage = Stage(name="late", learn=(item,), data="", batch=1)
    real = sum(p.numel() for p in parameters_that_learn(on_meta(system), stage, item).values())
    assert cost.learning(system, stage) == {part: real}
    assert 0 < real < cost.parameters(system)[part]


def test_adapters_on_other_parts_have_no_known_size():
    stage = Stage(name="odd", learn=(), data="", batch=1, lora=Lora(part="image.encoder", rank=4, alpha=8, lr=1e-4))
    with pytest.raises(SpecError, match=r"the size of adapters is known for the backbone, not image.encoder"):
        cost.learning(LLAVA, stage)


# --- FLOPs and cache ---------------------------------------------------------------------------------------------


def unseen(backbone):
    """FLOPs of a position that are no matrix products, which the counter does not see."""
    scanned = isinstance(backbone, Mamba)
    return backbone.layers * (backbone.scan_flops() - 2 * backbone.inner * backbone.state) if scanned else 0


@pytest.mark.parametrize("slug", WITH_FEATURES)
@torch.no_grad()
def test_prefill_flops_equal_those_counted(slug):
    """Within 2 %: what the counter does not see (norms, activations, resampling) is not claimed either."""
    system = index.system(slug).shrunk("tiny")
    model, batch = Lmm(system).eval().requires_grad_(False), document(system, 24)
    with counting() as counter:
        model.backbone.logits(model.hidden(batch)[-1:])
    claimed = cost.prefill_flops(system, media_of(system), 24)
    counted = counter.get_total_flops() + batch.tree.length * unseen(system.backbone)
    assert sum(claimed.values()) == pytest.approx(counted, rel=0.02)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    inside = {part for part in claimed if part.endswith(".fusion")}  # these run within the backbone's layers
    for part in set(claimed) - {"backbone"} - inside:
        kind = part.split(".")[1]
        counted = counts[f"ContinuousInput.{kind}"]
        if kind == "encoder":  # what makes spectrograms runs before the module itself
            counted = counts["ContinuousInput"] - counts["ContinuousInput.connector"]
        assert claimed[part] == pytest.approx(counted, rel=0.1), part


@pytest.mark.parametrize("name", TINY_NAMED)
@torch.no_grad()
def test_decode_flops_and_cache_equal_those_of_the_module(name):
    spec = TINY_NAMED[name]
    system = replace(LLAVA, backbone=spec, positions=rule(spec))
    module, cache = spec.build().eval(), DynamicCache()
    module(torch.randn(40, spec.dim), torch.arange(40), Tree.of([40]), cache)
    kept = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert cost.kv_cache_bytes(system, 40, dtype_bytes=4) == kept
    if isinstance(spec, Mixtral):
        module.lm.set_experts_implementation("eager")  # the counter does not know grouped products
    with counting() as counter:
        module.logits(module.step(torch.randn(1, 1, spec.dim), torch.tensor([[40]]), None, cache)[0])
    assert cost.decode_flops(system, 40) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_positions_are_the_plans():
    assert cost.positions(LLAVA, "image", PICTURE) == 576
    assert cost.positions(index.system("llava-next"), "image", PICTURE) == 2340


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_weights_gradients_and_moments_equal_those_of_a_training_step(name):
    system = LLAVA.shrunk("tiny")
    model = Lmm(system)
    stage = next(s for s in system.stages if s.name == name)
    learning = [p for item in stage.learn for p in parameters_that_learn(model, stage, item).values()]
    for parameter in learning:
        parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW(learning)
    optimizer.step()
    memory = cost.training_memory(system, stage, 1)
    assert memory.weights == sum(p.nbytes for p in model.parameters())
    assert memory.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = [state[m] for state in optimizer.state.values() for m in ("exp_avg", "exp_avg_sq")]
    assert memory.optimizer == sum(m.nbytes for m in moments)


def kept_values(module, embeds, tree):
    """float32 values that autograd keeps for the backward pass, parameters and buffers not counted."""
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    seen, alive = {}, []

    def keep(tensor):
        alive.append(tensor)  # so that no storage is used twice
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(embeds, tree.depth, tree)
    return sum(seen.values()) // 4


@pytest.mark.parametrize("learns", (True, False), ids=("learning", "frozen"))
@pytest.mark.parametrize("name", TINY_NAMED)
def test_activations_of_a_layer_are_close_to_what_autograd_keeps(name, learns):
    sections = {"sections": (2, 4, 2)} if TINY_NAMED[name].position_axes > 1 else {}
    spec = TINY_NAMED[name].but(dim=64, mlp_dim=256, **sections)
    kept, n = [], 64
    for layers in (1, 2):
        module = spec.but(layers=layers).build().requires_grad_(learns).train()
        kept.append(kept_values(module, torch.randn(n, 64, requires_grad=True), Tree.of([n])))
    assert spec.activation_values(learns) == pytest.approx((kept[1] - kept[0]) / n, rel=0.2)


def test_activations_stop_where_gradients_stop():
    def kept(*learn, **options):
        stage = Stage(name="s", learn=learn, data="", batch=1)
        return cost.training_memory(LLAVA, stage, 10, views={"image": 1}, **options).activations // 4

    spec = LLAVA.backbone
    connector, backbone = Learn(part="image.connector", lr=1.0), Learn(part="backbone", lr=1.0)
    late = Learn(part="backbone", lr=1.0, first_layer=30)
    media = 2 * 576 * 20979712 // 4096
    frozen, learning = spec.activation_values(False), spec.activation_values(True)
    assert kept(backbone) == 10 * 32 * learning
    assert kept(late) == 10 * 2 * learning
    assert kept(connector) == 10 * 32 * frozen + media
    assert kept(connector, late) == 10 * 32 * learning + media
    assert kept(backbone, checkpointing=True) == 10 * (32 * 4096 + learning)
    assert learning == 2 * 3 * 4096 + 3 * 4096 + 2 * 4096 + 4 * 11008


def test_precisions():
    stage = LLAVA.stages[1]
    full = cost.training_memory(LLAVA, stage, 100, learned=7)
    mixed = cost.training_memory(LLAVA, stage, 100, learned=7, precision=cost.AUTOCAST)
    assert mixed.weights == full.weights * 6 // 4
    assert (mixed.gradients, mixed.optimizer, mixed.logits) == (full.gradients, full.optimizer, full.logits)
    assert mixed.activations == full.activations // 2
    assert full.logits == 2 * 4 * 7 * 32000
    assert full.total == full.weights + full.gradients + full.optimizer + full.activations + full.logits


def test_views_of_an_unknown_input_are_refused():
    with pytest.raises(index.UnknownName, match=r"no continuous input of llava-1.5 named 'images'"):
        cost.training_memory(LLAVA, LLAVA.stages[0], 10, views={"images": 1})


# --- report ------------------------------------------------------------------------------------------------------


def test_the_report_of_a_picture_and_a_question():
    found = cost.cost(LLAVA, [("image", PICTURE)], 128, documents=16)
    data = json.loads(json.dumps(found.as_dict()))
    assert data["parameters"] == {
        "image.encoder": 303507456, "image.connector": 20979712, "backbone": 6738415616, "total": 7062902784,
    }  # fmt: skip
    assert data["media"] == [
        {"modality": "image", "width": 640, "height": 480, "frames": 1, "views": 1, "positions": 576}
    ]
    assert data["positions"] == found.positions == 704
    assert data["kv_cache_bytes"] == 704 * 2 * 32 * 32 * 128 * 2
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    head = 2 * 4096 * 32000
    assert data["prefill_flops"]["backbone"] == 2 * 32 * 704 * layer + 4 * 32 * 704**2 * 4096 + head
    assert data["prefill_flops"]["image.connector"] == 2 * 576 * 20979712
    assert data["prefill_flops"]["total"] == sum(found.prefill_flops.values())
    assert data["decode_flops"] == 2 * 32 * layer + 4 * 32 * 705 * 4096 + head
    assert list(data["training"]) == ["pretrain", "finetune"]
    finetune = data["training"]["finetune"]
    assert finetune["weights"] == 4 * 7062902784
    assert finetune["gradients"] == 4 * (6738415616 + 20979712)
    assert finetune["optimizer"] == 2 * finetune["gradients"]
    assert finetune["logits"] == 2 * 4 * 16 * 128 * 32000
    assert finetune["total"] == sum(v for k, v in finetune.items() if k != "total")


def test_media_that_share_an_encoder_are_counted_at_its_input():
    system = index.system("llava-onevision")
    video = MediaSize(width=640, height=480, frames=32)
    found = cost.cost(system, [("video", video)], 10)
    assert set(found.prefill_flops) == {"image.encoder", "image.connector", "backbone"}
    assert found.media[0].views == 32
    assert found.prefill_flops["image.encoder"] == 32 * system.continuous("image").encoder.flops((384, 384))
    assert found.media[0].positions == found.positions - 10
