"""From a folder to an engine: runs, own checkpoints, releases; and what is said where there is none."""

import json

import pytest
import torch
from safetensors.torch import save_file

from omniform import index
from omniform.data.document import Document
from omniform.data.tokenizer import train_tokenizer
from omniform.inference.engine import Engine
from omniform.inference.load import open_model
from omniform.inference.sampling import GenerationConfig
from omniform.weights import store
from omniform.weights.layout import CheckpointError, released, rules_of

ASKED = [Document.ask("what is the red shape?")]
SHORT = GenerationConfig(max_new_tokens=6)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["what is the red shape? USER: ASSISTANT:"], size=300)


@pytest.fixture(scope="module")
def engine(tokenizer):
    from omniform.data.processor import Processor

    system = index.system("llava-1.5").shrunk("tiny").but({"backbone.vocab": tokenizer.size})
    torch.manual_seed(0)
    return Engine(system.build(), Processor(system, tokenizer))


def release(folder, engine, tokenizer, **config):
    rules = rules_of(engine.model.system)
    folder.mkdir()
    save_file({released(n, rules): t for n, t in engine.model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(folder)


def same(one, other):
    return one.generate(ASKED, SHORT)[0].tokens == other.generate(ASKED, SHORT)[0].tokens


def test_a_run_and_its_model_are_opened(tmp_path, engine, tokenizer):
    store.save(engine.model, tmp_path / "model", tokenizer=tokenizer.inner)
    (tmp_path / "recipe.yaml").touch()
    for place in (tmp_path, str(tmp_path), tmp_path / "model"):
        opened = open_model(place, device="cpu")
        assert opened.model.system == engine.model.system
        assert same(opened, engine)


def test_a_release_is_opened(tmp_path, engine, tokenizer):
    folder = tmp_path / "release"
    release(folder, engine, tokenizer, architectures=["LlavaLlamaForCausalLM"])
    assert same(open_model(folder, system=engine.model.system, device="cpu"), engine)
    half = open_model(folder, system=engine.model.system, device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert len(half.generate(ASKED, SHORT)[0].tokens) == 6


def test_a_tokenizer_of_another_model_is_refused(tmp_path, engine):
    folder = tmp_path / "release"
    larger = train_tokenizer([f"word{i}" for i in range(300)], size=500)
    release(folder, engine, larger)
    with pytest.raises(
        CheckpointError, match=rf"has {larger.size} tokens .* the backbone {engine.processor.tokenizer.size}"
    ):
        open_model(folder, system=engine.model.system, device="cpu")


def test_what_is_missing_is_told(tmp_path, engine, tokenizer):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").touch()
    with pytest.raises(CheckpointError, match="is not trained to its end; go on with `omniform train"):
        open_model(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"llava-1.5:13b names a system, which has no weights of its own"):
        open_model("llava-1.5:13b")
    with pytest.raises(CheckpointError, match="there is no folder"):
        open_model(tmp_path / "nothing")
    release(tmp_path / "other", engine, tokenizer, architectures=["SomeForCausalLM"])
    with pytest.raises(
        CheckpointError, match="says SomeForCausalLM, which is none of the known systems; give system=SLUG"
    ):
        open_model(tmp_path / "other")
    for file in (tmp_path / "other").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match="no tokenizer can be read from"):
        open_model(tmp_path / "other", system=engine.model.system, device="cpu")
