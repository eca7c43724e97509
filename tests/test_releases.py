"""Releases are read as they were published, whatever their files; what is wrong with one is told in one sentence."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import releases
import torch
from releases import TOWER, publish, released, same, tiny, tower, write_bin, write_json, write_safetensors
from safetensors.torch import load_file, save_file

from omniform import index
from omniform.weights import files, hub
from omniform.weights.layout import CheckpointError, LayoutError
from omniform.weights.load import load_release

FORMS = {
    "safetensors": {},
    "safetensors in shards": {"shards": 3},
    "bin": {"write_weights": write_bin},
    "bin in shards": {"write_weights": write_bin, "shards": 2},
    "nested": {"write_weights": releases.write_nested},
    "bin of old torch": {"write_weights": write_bin, "_use_new_zipfile_serialization": False},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file(tmp_path, form):
    model = tiny()
    loaded = load_release("llava-1.5", publish(tmp_path / "r", model, **FORMS[form]))
    assert same(loaded, model)
    assert loaded.system.parts() == model.system.parts()
    assert loaded.system.continuous("image").views.fit == "pad"
    assert not loaded.training and {b.device.type for b in loaded.buffers()} == {"cpu"}


def test_files_are_opened_anew_but_nothing_is_lost(tmp_path, monkeypatch):
    model = tiny()
    folder = publish(tmp_path / "r", model)
    monkeypatch.setattr(files, "CHUNK", 1000)
    assert same(load_release("llava-1.5", folder), model)


@pytest.mark.parametrize("slug", index.names("systems"))
def test_every_system_is_read_as_it_is_laid_out(tmp_path, slug):
    model = tiny(slug)
    others = releases.publish_as_laid_out(tmp_path / "r", model)
    assert same(load_release(model.system, tmp_path / "r", separate=others), model)


def test_the_tower_may_be_in_the_release(tmp_path):
    model = tiny()
    write_safetensors(tmp_path, released(model))
    write_json(tmp_path / "config.json", releases.config(model, mm_vision_tower="somebody/clip"))
    assert same(load_release(model.system, tmp_path), model)


def test_the_tower_may_be_anywhere(tmp_path):
    model = tiny()
    folder = publish(tmp_path / "r", model)
    outside = tmp_path / "elsewhere"
    shutil.move(folder / "clip", outside)
    write_json(folder / "config.json", releases.config(model, mm_vision_tower=str(outside)))
    assert same(load_release("llava-1.5", folder), model)
    write_json(folder / "config.json", releases.config(model, mm_vision_tower="openai/clip"))
    assert same(load_release("llava-1.5", folder, separate={"openai/clip": outside}), model)
    with pytest.raises(LookupError, match=r"no separate repository of llava-1\.5 named 'openai/clap'.*'openai/clip'"):
        load_release("llava-1.5", folder, separate={"openai/clap": outside})


def test_the_tower_may_be_a_part_of_a_whole(tmp_path):
    """CLIP's own checkpoint holds a text tower too, and may hold more layers than are used."""
    model = tiny()
    folder = publish(tmp_path / "r", model)
    more = {key: torch.ones(1) for key in ("text_model.x", "logit_scale", "vision_model.embeddings.position_ids")}
    write_safetensors(folder / "clip", {**tower(released(model)), **more})
    write_json(folder / "clip" / "config.json", {"model_type": "clip", "vision_config": releases.vision_config(model)})
    assert same(load_release("llava-1.5", folder), model)


def test_repositories_are_fetched(tmp_path, monkeypatch):
    model = tiny()
    store = {"me/model": publish(tmp_path / "snap", model, write_bin), "openai/clip": tmp_path / "snap" / "clip"}
    write_json(tmp_path / "snap" / "config.json", releases.config(model, mm_vision_tower="openai/clip"))
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns[-1]))
        return str(store[name])

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    shutil.move(store["openai/clip"], tmp_path / "clip")
    store["openai/clip"] = tmp_path / "clip"
    assert same(load_release("llava-1.5", "me/model"), model)
    assert asked == [("me/model", "*.safetensors"), ("me/model", "*.bin"), ("openai/clip", "*.safetensors")]


def test_constants_in_old_files_are_no_weights(tmp_path):
    model = tiny()
    folder = publish(tmp_path / "r", model)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, folder / "model.safetensors")
    assert same(load_release("llava-1.5", folder), model)


def test_precision(tmp_path):
    model = tiny()
    half = {k: t.half() for k, t in released(model).items()}
    folder = publish(tmp_path / "r", model)
    write_safetensors(folder, {k: t for k, t in half.items() if not k.startswith(TOWER)})
    loaded = load_release("llava-1.5", folder)  # the tower beside it is float32
    assert {p.dtype for p in loaded.parameters()} == {torch.float16}
    asked = load_release("llava-1.5", folder, dtype=torch.bfloat16)
    assert {p.dtype for p in asked.parameters()} == {torch.bfloat16}
    assert asked.backbone.lm.model.rotary_emb.inv_freq.dtype == torch.float32


def tied(folder, model, head):
    publish(folder, model)
    write_json(folder / "config.json", releases.config(model, tie_word_embeddings=True))
    tensors = {k: t for k, t in released(model).items() if not k.startswith(TOWER)}
    write_safetensors(folder, {**tensors, **head})


def test_tied_embeddings(tmp_path):
    model = tiny(**{"backbone.tied": True})
    embedding = released(model)["model.embed_tokens.weight"]
    for name, head in [("once", {}), ("twice", {"lm_head.weight": embedding.clone()})]:
        tied(tmp_path / name, model, head)
        loaded = load_release("llava-1.5", tmp_path / name)
        assert same(loaded, model)
        assert loaded.backbone.lm.lm_head.weight is loaded.backbone.lm.model.embed_tokens.weight
    tied(tmp_path / "not", model, {"lm_head.weight": embedding + 1})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight and model\.embed_tokens\.weight differ, but config"):
        load_release("llava-1.5", tmp_path / "not")


def test_weights_are_in_memory_once(tmp_path):
    model = tiny(**{"backbone.dim": 256, "backbone.mlp_dim": 4096, "backbone.layers": 16})
    folder = publish(tmp_path / "r", model)
    size = sum(p.numel() * 4 for p in model.parameters())
    assert size > 200e6
    del model
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    loaded = load_release("llava-1.5", folder)
    assert memory("VmHWM") - before < 1.6 * size  # the weights, and at most one chunk of a mapped file
    assert sum(p.numel() * 4 for p in loaded.parameters()) == size


def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def test_differences_are_added_to_a_plain_model(tmp_path):
    """Embedding rows beyond the plain model's, and what is not the language model's, are stored as they are."""
    model = tiny()
    folder = publish(tmp_path / "r", model)
    language = {k: t for k, t in released(model).items() if k.startswith(("model.layers", "model.norm"))}
    language |= {k: released(model)[k][:120] for k in ("model.embed_tokens.weight", "lm_head.weight")}
    plain = {k: torch.randn_like(t) for k, t in language.items()}

    def subtract(tensors):
        for key, values in plain.items():
            tensors[key][: len(values)] -= values

    change(folder, subtract)
    write_safetensors(tmp_path / "plain", plain)
    loaded = load_release("llava-1.5", folder, base=tmp_path / "plain")
    wanted = model.state_dict()
    assert all(torch.allclose(t, wanted[k], atol=1e-6) for k, t in loaded.state_dict().items())
    assert torch.equal(loaded.backbone.lm.lm_head.weight[120:], wanted["backbone.lm.lm_head.weight"][120:])
    del plain["model.norm.weight"]
    write_safetensors(tmp_path / "plain", plain)
    with pytest.raises(CheckpointError, match=r"the base model has no model\.norm\.weight"):
        load_release("llava-1.5", folder, base=tmp_path / "plain")


# --- what is wrong -----------------------------------------------------------------------------------------------


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_all_disagreements_at_once(tmp_path):
    folder = publish(tmp_path / "r", tiny())

    def edit(tensors):
        tensors["model.mm_projector.4.weight"] = tensors.pop("model.mm_projector.2.weight")
        tensors["lm_head.weight"] = torch.ones(130, 32)

    change(folder, edit)
    with pytest.raises(LayoutError) as caught:
        load_release("llava-1.5", folder)
    assert str(caught.value) == (
        f"{folder} does not hold llava-1.5 as released: 1 missing: model.mm_projector.2.weight; "
        "1 left over: model.mm_projector.4.weight; 1 of another shape: lm_head.weight is [130, 32], needed [128, 32]"
    )


def test_a_separate_tower_that_does_not_fit(tmp_path):
    folder = publish(tmp_path / "r", tiny())
    tensors = load_file(folder / "clip" / "model.safetensors")
    del tensors["vision_model.pre_layrnorm.bias"]
    save_file(tensors, folder / "clip" / "model.safetensors")
    with pytest.raises(LayoutError, match=r"1 missing: \[separate ./clip\] vision_model\.pre_layrnorm\.bias"):
        load_release("llava-1.5", folder)


def no_config(folder):
    (folder / "config.json").unlink()


def no_json(folder):
    (folder / "config.json").write_text("{")


def other_system(folder):
    write_json(folder / "config.json", {"architectures": ["LlavaForConditionalGeneration"], "text_config": {}})


def other_connector(folder):
    said = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**said, "mm_projector_type": "resampler"})


def cut_short(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def only_adapters(folder):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})


def wrong_values(folder):
    write_json(folder / "clip" / "config.json", {"model_type": "clip_vision_model", "hidden_size": "many"})


def no_shard(folder):
    write_json(
        folder / "model.safetensors.index.json", {"weight_map": {"a": "model.safetensors", "b": "two.safetensors"}}
    )


def outside(folder):
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "../../secrets.safetensors"}})


def no_tower(folder):
    shutil.rmtree(folder / "clip")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (no_config, r"has no config\.json; is it the folder of a released model"),
        (no_json, r"config\.json is not readable JSON"),
        (other_system, r"is not one of llava-1\.5: it lacks hidden_size .*json says LlavaForConditional"),
        (other_connector, r"is not one of llava-1\.5: mm_projector_type 'resampler'"),
        (cut_short, r"model\.safetensors is damaged or cut short"),
        (no_weights, r"holds no weights: looked for .* found clip, config\.json"),
        (only_adapters, r"holds low-rank adapters, not a whole model; merge them into their base first"),
        (wrong_values, r"clip/config\.json is refused by transformers"),
        (no_shard, r"lacks 1 of 2 files that model\.safetensors\.index\.json names: two\.safetensors; fetch"),
        (outside, r"points outside its folder: '\.\./\.\./secrets\.safetensors'"),
        (no_tower, r"leaves inputs\.image\.encoder to \./clip: there is no folder .* separate=\{'\./clip': FOLDER\}"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(tmp_path, harm, message):
    folder = publish(tmp_path / "r", tiny())
    harm(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_release("llava-1.5", folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("slug", [s for s in index.names("systems") if s != "llava-1.5"])
def test_another_systems_release_is_recognised(tmp_path, slug):
    """What its config.json says leads to the systems that are released so."""
    said = index.system(slug).layout.architectures
    folder = publish(tmp_path / "r", tiny())
    write_json(folder / "config.json", {**releases.config(tiny()), "architectures": list(said), "hidden_size": 34})
    with pytest.raises((CheckpointError, LayoutError)) as caught:
        load_release("llava-1.5", folder)
    shared = set(said) & set(index.system("llava-1.5").layout.architectures)
    assert not said or shared or f"config.json says {', '.join(said)}, the release of" in str(caught.value)
    assert not said or shared or slug in str(caught.value)


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("old", [True, False])
def test_pickled_code_is_refused_and_not_run(tmp_path, monkeypatch, old):
    monkeypatch.chdir(tmp_path)
    folder = publish(tmp_path / "r", tiny(), write_bin)
    file = folder / "pytorch_model.bin"
    if old:
        file.write_bytes(pickle.dumps({"x": Harm()}))
    else:
        torch.save({"x": Harm()}, file)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is refused: (it holds|a pickle of)"):
        load_release("llava-1.5", folder)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda f: torch.save([1, 2], f), "something other than a dictionary of tensors"),
        (lambda f: f.write_bytes(b"junk" * 9), "is damaged or cut short|is refused"),
    ],
)
def test_other_bin_files(tmp_path, content, message):
    folder = publish(tmp_path / "r", tiny(), write_bin)
    content(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        load_release("llava-1.5", folder)


def test_places_that_are_no_release(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="file is a file; give the folder"):
        load_release("llava-1.5", tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"there is no folder .*nowhere, and it is not a hub id"):
        load_release("llava-1.5", tmp_path / "nowhere")
    with pytest.raises(LookupError, match=r"did you mean 'llava-1\.5'"):
        load_release("llava-1.6", tmp_path)

    def unreachable(name, allow_patterns):
        raise ConnectionError("the hub cannot be reached\nlong story")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    message = "no folder me/model, and the hub repository of that name could not be fetched: the hub cannot be reached$"
    with pytest.raises(CheckpointError, match=message):
        load_release("llava-1.5", "me/model")


# --- the sizes of a release --------------------------------------------------------------------------------------


def test_a_release_of_sub_folders(tmp_path):
    """Keys read "folder/key", and each folder has a configuration of its own."""
    model = tiny()
    layout = {
        "layout.rules": (
            ("llm/", "backbone.lm."), ("vision_tower/", "inputs.image.encoder."),
            ("mm_projector/", "inputs.image.connector."),
        ),
        "layout.folders": ("llm", "vision_tower", "mm_projector"),
    }  # fmt: skip
    system = model.system.but(layout)
    prefixed = released(tiny(**layout))
    for name in system.layout.folders:
        part = {k.removeprefix(f"{name}/"): t for k, t in prefixed.items() if k.startswith(f"{name}/")}
        write_safetensors(tmp_path / name, part)
        write_json(tmp_path / name / "config.json", {"model_type": "unknown"})
    write_json(tmp_path / "config.json", {})
    assert same(load_release(system, tmp_path), model)
    shutil.rmtree(tmp_path / "mm_projector")
    with pytest.raises(CheckpointError, match=r"has no sub-folder mm_projector; llava-1\.5 is released as llm, vision"):
        load_release(system, tmp_path)
