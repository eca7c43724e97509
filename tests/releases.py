"""Tiny releases made on the spot, in the forms in which checkpoints are published."""

import json

import torch
from safetensors.torch import save_file

from omniform import index
from omniform.weights import layout
from omniform.weights.fill import slots
from omniform.weights.recast import as_released, last_rows

TOWER = "model.vision_tower.vision_tower."


def tiny(slug="llava-1.5", **changes):
    """A tiny model with random weights."""
    torch.manual_seed(3)
    return index.system(slug).shrunk("tiny").but(changes).build().eval()


def released(model):
    """The model's tensors under their released keys."""
    state = model.state_dict()
    return {layout.place_of(name, model.system).key: state[name].clone() for name in slots(model).shapes}


def config(model, **more):
    """config.json as the LLaVA family writes it."""
    backbone, image = model.system.backbone, model.system.continuous("image")
    return {
        "architectures": list(model.system.layout.architectures), "model_type": "llava",
        "hidden_size": backbone.dim, "num_hidden_layers": backbone.layers, "num_attention_heads": backbone.heads,
        "num_key_value_heads": backbone.kv_heads, "intermediate_size": backbone.mlp_dim, "vocab_size": backbone.vocab,
        "max_position_embeddings": backbone.context, "rms_norm_eps": backbone.norm_eps, "tie_word_embeddings": False,
        "mm_projector_type": f"mlp{image.connector.depth}x_gelu", "mm_hidden_size": image.encoder.dim,
        "mm_vision_select_layer": -2, "mm_vision_tower": "./clip", "image_aspect_ratio": "pad", **more,
    }  # fmt: skip


def vision_config(model):
    return {"model_type": "clip_vision_model", **model.inputs.image.encoder.spec.config()}


def write_json(file, data):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data))


def write_safetensors(folder, tensors, shards=1):
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, tensors, shards, "model", "safetensors", save_file)


def write_bin(folder, tensors, shards=1, **how):
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, tensors, shards, "pytorch_model", "bin", lambda part, file: torch.save(part, file, **how))


def write_nested(folder, tensors):
    """One dictionary for each first component of the keys, all of them under "model"."""
    nested = {}
    for key, tensor in tensors.items():
        first, _, rest = key.partition(".")
        nested.setdefault(first, {})[rest] = tensor
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"model": nested}, folder / "checkpoints" / "latest-checkpoint.pt")


def write(folder, tensors, shards, stem, suffix, save):
    if shards == 1:
        save(tensors, folder / f"{stem}.{suffix}")
        return
    weight_map = {}
    for number in range(shards):
        name = f"{stem}-{number + 1:05d}-of-{shards:05d}.{suffix}"
        part = {key: t for i, (key, t) in enumerate(tensors.items()) if i % shards == number}
        save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    write_json(folder / f"{stem}.{suffix}.index.json", {"weight_map": weight_map})


def publish(folder, model, write_weights=write_safetensors, **how):
    """A release as LLaVA-1.5's: language model and projector in the folder, the tower beside it under `clip`."""
    tensors = released(model)
    write_weights(folder, {k: t for k, t in tensors.items() if not k.startswith(TOWER)}, **how)
    write_json(folder / "config.json", config(model))
    write_safetensors(folder / "clip", tower(tensors))
    write_json(folder / "clip" / "config.json", vision_config(model))
    return folder


def tower(tensors):
    return {k.removeprefix(TOWER): t for k, t in tensors.items() if k.startswith(TOWER)}


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def publish_as_laid_out(folder, model):
    """A release of any system by its layout; returns where the other repositories are."""
    whole, layout_ = model.state_dict(), model.system.layout
    state = as_released(model.system, {name: whole[name] for name in slots(model).shapes})
    parts = {}
    for name in (name for name in state if last_rows(model.system, name)):  # the table that they end lies elsewhere
        prefix = next(prefix for prefix in layout_.separate if name.startswith(prefix))
        key = layout.released(name, layout.separate_rules(model.system, prefix))
        parts[layout_.separate[prefix], ""] = {key: whole[name].clone()}
    for name in state:
        key, repository = layout.place_of(name, model.system)
        inside = next((f for f in layout_.folders if key.startswith(f"{f}/")), "") if not repository else ""
        parts.setdefault((repository, inside), {})[key.removeprefix(f"{inside}/")] = state[name].clone()
    others = {repository: folder / "others" / str(i) for i, (repository, _) in enumerate(parts) if repository}
    for (repository, inside), tensors in parts.items():
        write_safetensors(others[repository] if repository else folder / inside, tensors)
        write_json((others[repository] if repository else folder / inside) / "config.json", {})
    write_json(folder / "config.json", {})
    return others
