"""Directories appear whole or not at all; our checkpoints come back exactly, and damage is named."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omniform import index
from omniform.backbones.llama import Llama
from omniform.connectors.mlp import Mlp
from omniform.data.tokenizer import train_tokenizer
from omniform.serial import SerialError
from omniform.weights import atomic, store
from omniform.weights.atomic import atomic_directory
from omniform.weights.fill import fill, slots, without_memory
from omniform.weights.layout import CheckpointError, LayoutError

# --- atomic directories ------------------------------------------------------------------------------------------


def put(folder, text):
    with atomic_directory(folder) as partial:
        (partial / "a" / "b").mkdir(parents=True)
        (partial / "a" / "b" / "c.txt").write_text(text)


def content(folder):
    return (folder / "a" / "b" / "c.txt").read_text()


@pytest.mark.parametrize("exchange", [True, False])
def test_a_directory_is_written_and_replaced_whole(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    target = tmp_path / "deep" / "model [1]"
    put(target, "one")
    assert content(target) == "one"
    (target / "only-old").touch()
    put(target, "two")
    assert content(target) == "two" and not (target / "only-old").exists()
    assert os.listdir(target.parent) == ["model [1]"]
    (tmp_path / "plain").mkdir()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_exception_leaves_what_was_there(tmp_path):
    put(tmp_path / "x", "old")
    with pytest.raises(OSError, match="No space left"), atomic_directory(tmp_path / "x") as partial:
        (partial / "half").write_text("half")
        raise OSError(28, "No space left on device")
    assert content(tmp_path / "x") == "old"
    assert os.listdir(tmp_path) == ["x"]
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "new"):
        1 / 0  # noqa: B018
    assert os.listdir(tmp_path) == ["x"]


def test_a_failing_rename_puts_the_old_one_back(tmp_path, monkeypatch):
    put(tmp_path / "x", "old")
    monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    rename = Path.rename

    def fails(self, target):
        if self.name.endswith(atomic.PARTIAL):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="Input/output error"):
        put(tmp_path / "x", "new")
    assert content(tmp_path / "x") == "old" and os.listdir(tmp_path) == ["x"]


WRITER = """
import sys, time
from omniform.weights.atomic import atomic_directory
with atomic_directory(sys.argv[1]) as partial:
    (partial / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_loses_nothing(tmp_path):
    put(tmp_path / "x", "old")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    put(tmp_path / "other", "x")
    atomic.recover(tmp_path / "x")  # the writer lives: its directory stays
    assert sum(name.endswith(atomic.PARTIAL) for name in os.listdir(tmp_path)) == 1
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert content(tmp_path / "x") == "old"
    put(tmp_path / "x", "new")
    assert content(tmp_path / "x") == "new" and sorted(os.listdir(tmp_path)) == ["other", "x"]


def test_a_kill_between_two_renames_is_mended(tmp_path):
    put(tmp_path / "x", "old")
    (tmp_path / "x").rename(tmp_path / f".x.1234{atomic.OLD}")
    atomic.recover(tmp_path / "x")
    assert content(tmp_path / "x") == "old" and os.listdir(tmp_path) == ["x"]


def test_a_file_is_not_replaced_by_a_directory(tmp_path):
    (tmp_path / "x").write_text("precious")
    with pytest.raises(NotADirectoryError, match="x is a file; give the name of a directory"):
        put(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "precious"


# --- modules without memory --------------------------------------------------------------------------------------


def test_parameters_take_no_memory_and_constants_are_real():
    with without_memory():
        model = index.system("llava-1.5").build()
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {b.device.type for b in model.buffers()} == {"cpu"}
    assert sum(torch.Size(s).numel() for s in slots(model).shapes.values()) == 7062902784
    assert not torch.nn.Linear(2, 2).weight.is_meta


def test_tied_tensors_are_one_slot_and_stay_tied():
    with without_memory():
        backbone = Llama(dim=8, layers=1, heads=2, kv_heads=2, mlp_dim=8, vocab=16, context=8, tied=True).build()
    needed = slots(backbone)
    assert needed.aliases == {"lm.lm_head.weight": "lm.model.embed_tokens.weight"}
    fill(backbone, ((name, torch.randn(shape)) for name, shape in needed.shapes.items()))
    assert backbone.lm.lm_head.weight is backbone.lm.model.embed_tokens.weight
    assert not any(p.is_meta for p in backbone.parameters())


# --- our checkpoints ---------------------------------------------------------------------------------------------


def tiny(**changes):
    torch.manual_seed(1)
    return index.system("llava-1.5").shrunk("tiny").but(changes).build()


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("slug", index.names("systems"))
def test_every_system_is_saved_and_loaded(slug, tmp_path):
    model = index.system(slug).shrunk("tiny").build()
    store.save(model, tmp_path / "m")
    after = store.load(tmp_path / "m")
    assert same(after, model) and after.system == model.system
    assert not after.training
    constants = dict(model.named_buffers())
    assert all(torch.equal(b, constants[name]) for name, b in after.named_buffers())


def test_shards_hold_everything_once(tmp_path):
    model = tiny(**{"backbone.tied": True})
    with atomic_directory(tmp_path / "m") as folder:
        tensors = {name: model.state_dict()[name] for name in slots(model).shapes}
        store.write(model.system, tensors, folder, shard=20_000)
    files = sorted(p.name for p in (tmp_path / "m").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    held = [key for file in files for key in load_file(tmp_path / "m" / file)]
    assert sorted(held) == sorted(tensors) and "backbone.lm.lm_head.weight" not in held
    weight_map = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())["weight_map"]
    assert sorted(weight_map) == sorted(tensors)
    after = store.load(tmp_path / "m")
    assert same(after, model)
    assert after.backbone.lm.lm_head.weight is after.backbone.lm.model.embed_tokens.weight


def test_precision_and_tokenizer(tmp_path):
    model = tiny().bfloat16()
    tokenizer = train_tokenizer(["a b c"], size=260).inner
    store.save(model, tmp_path / "m", tokenizer=tokenizer)
    assert (tmp_path / "m" / "tokenizer.json").is_file()
    assert next(store.load(tmp_path / "m").parameters()).dtype == torch.bfloat16
    after = store.load(tmp_path / "m", dtype=torch.float32)
    assert {p.dtype for p in after.parameters()} == {torch.float32}
    assert torch.equal(after.backbone.lm.lm_head.weight, model.backbone.lm.lm_head.weight.float())


@dataclass(frozen=True, kw_only=True)
class MyMlp(Mlp):
    """A connector of one's own."""


def test_parts_of_ones_own(tmp_path):
    model = tiny(**{"inputs.image.connector": MyMlp(depth=1)})
    store.save(model, tmp_path / "m")
    with pytest.raises(SerialError, match=r"no class named 'MyMlp'.*parts=\(MyMlp,\)"):
        store.load(tmp_path / "m")
    assert same(store.load(tmp_path / "m", parts=[MyMlp]), model)
    assert store.read_system(tmp_path / "m", parts=[MyMlp]) == model.system


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(bytes(data))


def damage_tensor(folder):
    flip(folder / "model.safetensors", -10)


def damage_length(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


def damage_header(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def damage_system(folder):
    text = (folder / "system.json").read_text()
    (folder / "system.json").write_text(text.replace('"context": 512', '"context": 513'))


def damage_sums(folder):
    (folder / "checksums.json").write_text("{")


def lose_weights(folder):
    (folder / "model.safetensors").unlink()


def lose_system(folder):
    (folder / "system.json").unlink()


def come_later(folder):
    sums = json.loads((folder / "checksums.json").read_text())
    (folder / "checksums.json").write_text(json.dumps({**sums, "format": 2}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage_tensor, r"model\.safetensors is damaged: inputs\S+ does not match its checksum"),
        (damage_length, r"model\.safetensors is damaged or cut short"),
        (damage_header, r"model\.safetensors is damaged or cut short"),
        (damage_system, r"system\.json does not match its checksum"),
        (damage_sums, r"checksums\.json is not readable JSON"),
        (lose_weights, r"holds no weights: looked for model\.safetensors"),
        (lose_system, r"is not a checkpoint of this library: it has no system\.json"),
        (come_later, r"checksums\.json has format 2, this omniform reads 1"),
    ],
)
def test_damage_is_named(tmp_path, harm, message):
    store.save(tiny(), tmp_path / "m")
    harm(tmp_path / "m")
    with pytest.raises(CheckpointError, match=message) as caught:
        store.load(tmp_path / "m")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_every_flipped_bit_is_noticed(tmp_path):
    store.save(tiny(), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    size = file.stat().st_size
    for at in [9, 200, size // 2, size - 1]:
        flip(file, at)
        with pytest.raises(CheckpointError, match=r"model\.safetensors|does not hold"):
            store.load(tmp_path / "m")
        flip(file, at)
    store.load(tmp_path / "m")


def test_another_system_is_told(tmp_path):
    store.save(tiny(), tmp_path / "m")
    store.save(tiny(**{"backbone.vocab": 64}), tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "m" / "model.safetensors")
    with pytest.raises(LayoutError, match=r"2 of another shape: \S+ is \[64, 32\], needed \[128, 32\]"):
        store.load(tmp_path / "m")


def test_a_failing_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    model = tiny()
    store.save(model, tmp_path / "m")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*m: .*No space left on device; what stood there before"):
        store.save(tiny(**{"backbone.vocab": 64}), tmp_path / "m")
    assert os.listdir(tmp_path) == ["m"] and same(store.load(tmp_path / "m"), model)


def test_a_checkpoint_that_was_being_replaced_is_found(tmp_path):
    model = tiny()
    store.save(model, tmp_path / "m")
    (tmp_path / "m").rename(tmp_path / f".m.77{atomic.OLD}")
    assert same(store.load(tmp_path / "m"), model)
