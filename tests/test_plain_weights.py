"""One part from a checkpoint of its own: language models in folders and GGUF files, encoders, connectors."""

import gguf
import numpy as np
import pytest
import torch
from releases import released, same, tiny, tower, write_bin, write_json, write_safetensors
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from omniform import index
from omniform.backbones.decoder import Decoder
from omniform.backbones.llama import Llama
from omniform.weights.fill import slots
from omniform.weights.layout import CheckpointError, LayoutError
from omniform.weights.plain import load_connector, load_plain_encoder, load_plain_llm, plain_llm

SIZES = {"dim": 32, "layers": 2, "heads": 4, "kv_heads": 4, "mlp_dim": 128, "vocab": 64, "context": 128}


def publish(folder, spec, **how):
    """A plain language model, saved by transformers."""
    torch.manual_seed(5)
    config = AutoConfig.for_model(spec.model_type, **{**spec.config(), "pad_token_id": None})
    lm = AutoModelForCausalLM.from_config(config)
    lm.save_pretrained(folder, **how)
    return lm


def equal(backbone, lm):
    ours, theirs = backbone.lm.state_dict(), lm.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


DECODERS = [
    name
    for name, kind in index.declarations("backbones").items()
    if issubclass(kind, Decoder) and vars(kind).get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
]


@pytest.mark.parametrize("name", DECODERS)
def test_every_family_is_declared_and_filled(name, tmp_path):
    small = index.load("backbones", name)(**SIZES)
    publish(tmp_path, small)
    found = plain_llm(tmp_path)
    assert type(found) is type(small)
    assert (found.dim, found.layers, found.mlp_dim, found.vocab) == (32, 2, 128, 64)
    backbone = found.build()
    load_plain_llm(backbone, tmp_path)
    assert equal(backbone, AutoModelForCausalLM.from_pretrained(tmp_path))


def test_shards_and_precision(tmp_path):
    spec = Llama(**SIZES)
    lm = publish(tmp_path, spec, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    backbone = spec.build()
    load_plain_llm(backbone, tmp_path)
    assert equal(backbone, lm)
    load_plain_llm(backbone, tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in backbone.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("is_tied", [True, False])
def test_rows_for_special_tokens(tmp_path, is_tied):
    spec = Llama(**SIZES, tied=is_tied)
    lm = publish(tmp_path, spec)
    backbone = plain_llm(tmp_path, vocab=67).build()
    with pytest.raises(LayoutError, match=r"is \[64, 32\], needed \[67, 32\]"):
        load_plain_llm(backbone, tmp_path)
    load_plain_llm(backbone, tmp_path, extend_vocab=True)
    old, new = lm.get_input_embeddings().weight, backbone.lm.get_input_embeddings().weight
    assert torch.equal(new[:64], old)
    assert torch.allclose(new[64:], old.mean(0).expand(3, -1), atol=1e-7)
    head = backbone.lm.lm_head.weight
    assert (head is new) == is_tied and torch.allclose(head[64:], head[:64].mean(0).expand(3, -1), atol=1e-7)


def test_settings_that_no_shape_shows_must_agree(tmp_path):
    publish(tmp_path, Llama(**SIZES))
    wrong = Llama(**SIZES).but(heads=8, kv_heads=4, rope_theta=5e5, norm_eps=1e-5)
    with pytest.raises(
        CheckpointError, match=r"has heads 4 \(backbone: 8\), .*norm_eps.*rope_theta 10000\.0 \(backbone"
    ):
        load_plain_llm(wrong.build(), tmp_path)
    other = index.load("backbones", "Qwen2")(**SIZES)
    with pytest.raises(CheckpointError, match=r"is of the family llama, the backbone of qwen2; take the backbone that"):
        load_plain_llm(other.build(), tmp_path)


def test_places_that_hold_no_language_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no file .*none\.gguf"):
        plain_llm(tmp_path / "none.gguf")
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(CheckpointError, match="no backbone family named 'bert'"):
        plain_llm(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "nonesuch"})
    with pytest.raises(CheckpointError, match="no language model that transformers knows"):
        plain_llm(tmp_path)
    (tmp_path / "bad.gguf").write_bytes(b"GGUFjunk")
    with pytest.raises(CheckpointError, match=r"bad\.gguf"):
        plain_llm(tmp_path / "bad.gguf")
    publish(tmp_path / "cut", Llama(**SIZES))
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut short"):
        load_plain_llm(Llama(**SIZES).build(), tmp_path / "cut")


# --- GGUF --------------------------------------------------------------------------------------------------------


def write_gguf(file, spec):
    """A language model as llama.cpp stores it."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(spec.layers)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.dim)
    writer.add_feed_forward_length(spec.mlp_dim)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_rope_freq_base(spec.rope_theta)
    writer.add_rope_dimension_count(spec.per_head)
    writer.add_vocab_size(spec.vocab)
    rng = np.random.default_rng(0)
    kv = spec.kv_heads * spec.per_head
    shapes = {"token_embd": (spec.vocab, spec.dim), "output_norm": (spec.dim,), "output": (spec.vocab, spec.dim)}
    for i in range(spec.layers):
        own = {
            "attn_norm": (spec.dim,), "ffn_norm": (spec.dim,), "attn_q": (spec.dim, spec.dim), "attn_k": (kv, spec.dim),
            "attn_v": (kv, spec.dim), "attn_output": (spec.dim, spec.dim), "ffn_gate": (spec.mlp_dim, spec.dim),
            "ffn_up": (spec.mlp_dim, spec.dim), "ffn_down": (spec.dim, spec.mlp_dim),
        }  # fmt: skip
        shapes |= {f"blk.{i}.{name}": shape for name, shape in own.items()}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 2 and name.startswith("blk"):  # 8-bit blocks of 32
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf(tmp_path):
    spec = Llama(**{**SIZES, "kv_heads": 2}, rope_theta=1e5)
    write_gguf(tmp_path / "m.gguf", spec)
    found = plain_llm(tmp_path / "m.gguf")
    assert found.but(norm_eps=spec.norm_eps, head_dim=None) == spec
    backbone = found.build()
    load_plain_llm(backbone, tmp_path / "m.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    assert equal(backbone, theirs)
    assert float(backbone.lm.model.layers[0].mlp.up_proj.weight.detach().std()) == pytest.approx(1, abs=0.1)


# --- encoders and connectors -------------------------------------------------------------------------------------


def test_an_encoder_from_its_familys_checkpoint(tmp_path):
    model, other = tiny(), tiny()
    whole = {**tower(released(model)), "text_model.embeddings.x": torch.ones(3), "logit_scale": torch.ones(())}
    write_safetensors(tmp_path / "clip", whole)
    encoder = other.inputs.image.encoder
    torch.nn.init.zeros_(encoder.model.embeddings.class_embedding)
    load_plain_encoder(encoder, tmp_path / "clip")
    assert same(encoder, model.inputs.image.encoder)
    del whole["vision_model.pre_layrnorm.weight"]
    write_safetensors(tmp_path / "clip", whole)
    with pytest.raises(LayoutError, match=r"does not hold ClipVit: 1 missing: vision_model\.pre_layrnorm\.weight"):
        load_plain_encoder(encoder, tmp_path / "clip")


def test_a_connector_alone(tmp_path):
    model, other = tiny(), tiny()
    tensors = {k: t + 1 for k, t in released(model).items() if "mm_projector" in k}
    write_bin(tmp_path, tensors)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "mm_projector.bin")
    load_connector(other, tmp_path)
    for name in slots(model).shapes:
        added = 1 if name.startswith("inputs.image.connector.") else 0
        assert torch.equal(other.state_dict()[name], model.state_dict()[name] + added)
    write_bin(tmp_path, {k: t for k, t in tensors.items() if ".2." not in k})
    with pytest.raises(LayoutError, match=r"the connector of llava-1\.5: 2 missing: model\.mm_projector\.2\.weight"):
        load_connector(other, tmp_path)
