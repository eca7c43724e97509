"""Media found or made: the space of both, known media, the choice; a release of learned parts beside frozen models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from omniform import index
from omniform.data.document import Document, Media, Text
from omniform.data.packing import pack
from omniform.data.processor import Processor
from omniform.data.tokenizer import train_tokenizer
from omniform.geometry import SpecError
from omniform.inference.engine import Engine
from omniform.inference.sampling import GenerationConfig
from omniform.model import Lmm
from omniform.views.fixed import Fixed
from omniform.weights.layout import CheckpointError, LayoutError, place_of
from omniform.weights.load import load_release
from omniform.weights.recast import released_shape

SLUG = "gill"
FULL = index.system(SLUG)
SMALL = FULL.shrunk("tiny")
WORDS = train_tokenizer(["what is this? a red circle draw a blue square"] * 2, SMALL.added_tokens, 330)
DRAW = GenerationConfig(max_new_tokens=10, first="image")


def made() -> Lmm:
    torch.manual_seed(0)
    model: Lmm = SMALL.but({"backbone.vocab": WORDS.size}).build()
    return model.eval()


MODEL = made()
ENGINE = Engine(MODEL, Processor(MODEL.system, WORDS))
DECODER = MODEL.part("image.decoder")


def picture(shade: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(shade).integers(0, 255, (10, 12, 3), dtype=np.uint8))


def drawn(words: str, shade: int) -> Document:
    return Document((Text(words, "assistant"), Media("image", picture(shade), "assistant")))


def test_losses_are_distance_and_contrast() -> None:
    samples = [ENGINE.processor.sample(drawn(words, n)) for n, words in enumerate(("a red circle", "a square", "this"))]
    batch = pack(samples, ENGINE.load)
    signals = batch.signals["image"]
    with torch.no_grad():
        loss = MODEL(batch)["image"]
        hidden = MODEL.hidden(batch)
        given = DECODER.condition(MODEL.backbone, hidden[signals.at], batch.ids[signals.at])
        distance = (given - DECODER.target(signals)).norm(dim=-1).mean(-1)
        encoder = MODEL.part("image.encoder")
        seen = F.normalize(DECODER.media(encoder(encoder.normalise(torch.cat(signals.views))).values[:, 0]), dim=-1)
        said = F.normalize(DECODER.words(hidden[signals.at[:, 0]]), dim=-1)
        logits = DECODER.scale.exp() * seen @ said.T
        own = torch.arange(3)
        contrast = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert float(loss.mean) == pytest.approx(float(distance.mean() + contrast), rel=1e-5)
    assert DECODER.scale.exp().item() == pytest.approx(1 / 0.07)


def test_media_are_found_where_the_classifier_says_so() -> None:
    model = made()
    engine, decoder = Engine(model, Processor(model.system, WORDS)), model.part("image.decoder")
    document = Document.ask("draw a blue square")
    assert isinstance(engine.generate([document], DRAW)[0].segments[0].source, Image.Image)
    with pytest.raises(ValueError, match=r"no media are known"):
        decoder.scores(torch.zeros(1, 12))
    sample = engine.sample(document).followed_by(WORDS.ids_of(["[IMG0]"]))
    with torch.no_grad():
        first = model.hidden(pack([sample], engine.load))[-1:]
        said = F.normalize(decoder.words(first), dim=-1)
        decoder.remember(["far.png", "near.png"], torch.cat([-said, 3 * said + 0.01]))
        scores = decoder.scores(said)[0]
        assert scores[1] == pytest.approx(1 / 0.07, rel=0.01) and scores[0] == pytest.approx(-1 / 0.07, rel=0.01)
        assert isinstance(engine.generate([document], DRAW)[0].segments[0].source, Image.Image)
        decoder.choice.bias[1] = 100.0
        assert engine.generate([document], DRAW)[0].segments[0].source == "near.png"


def test_noise_and_encoders_see_differently() -> None:
    with pytest.raises(SpecError, match=r"loss 'noise' and the encoder of image see a medium differently"):
        FULL.outputs["image"].but(losses={"noise": 1.0}, views=Fixed(fit="crop"))


# --- the release -------------------------------------------------------------------------------------------------


def released(model: Lmm, folder: Path) -> dict[str, str]:
    """The learned parts in one file, as the original writes them, and folders of the frozen models beside it."""
    system, state = model.system, model.state_dict()
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, values in state.items():
        if key == "backbone.lm.lm_head.weight":
            continue
        place = place_of(key, system)
        repository = place.repository
        if key.startswith("inputs.image.encoder."):
            repository, name = system.layout.separate["inputs.image.encoder."], "vision_model." + key.split("model.")[1]
        else:
            name = place.key
        rows = released_shape(system, key, tuple(values.shape))[:1]
        groups.setdefault(repository, {})[name] = (values[-rows[0] :] if rows else values).clone()
    table = state["backbone.lm.model.decoder.embed_tokens.weight"]
    groups["facebook/opt-6.7b"]["model.decoder.embed_tokens.weight"] = table[:-2].clone()
    folders = {}
    for repository, tensors in groups.items():
        if repository in ("", "decision_model.pth.tar"):
            file = folder / (repository or "pretrained_ckpt.pth.tar")
            torch.save({"state_dict": tensors}, file)
        else:
            folders[repository] = _folder(folder.parent / repository.replace("/", "+"), tensors)
    return folders


def _folder(folder: Path, tensors: dict[str, torch.Tensor]) -> str:
    """A checkpoint, or, where keys name several models, a directory of those."""
    models: dict[str, dict[str, torch.Tensor]] = {}
    for key, values in tensors.items():
        model, _, name = key.rpartition("/")
        models.setdefault(model, {})[name] = values
    for model, own in models.items():
        (folder / model).mkdir(parents=True, exist_ok=True)
        save_file(own, folder / model / "model.safetensors")
    if "" not in models:
        (folder / "model_index.json").write_text("{}")
    return str(folder)


def test_the_release_is_read_with_frozen_models_beside_it(tmp_path: Path) -> None:
    model = made()
    with torch.no_grad():
        model.part("image.decoder").choice.weight.normal_()
    home = tmp_path / "release"
    home.mkdir()
    folders = released(model, home)
    assert sorted(p.name for p in home.iterdir()) == ["decision_model.pth.tar", "pretrained_ckpt.pth.tar"]
    loaded = load_release(model.system, home, separate=folders)
    for name, values in model.state_dict().items():
        assert torch.equal(values, loaded.state_dict()[name]), name
    system = replace(
        model.system, outputs={**model.system.outputs, "image": SMALL.outputs["image"].but(rendered=False)}
    )
    assert not len(
        load_release(system, home, separate={k: v for k, v in folders.items() if "diffusion" not in k}).diffusion
    )


def test_a_release_without_its_rows_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "release"
    home.mkdir()
    folders: Any = released(MODEL, home)
    held = torch.load(home / "pretrained_ckpt.pth.tar")["state_dict"]
    rows = held.pop("model.input_embeddings.weight")
    assert rows.shape == (8, MODEL.system.backbone.dim)
    torch.save({"state_dict": held}, home / "pretrained_ckpt.pth.tar")
    with pytest.raises(LayoutError, match=r"1 missing: model.input_embeddings.weight"):
        load_release(MODEL.system, home, separate=folders)
    (home / "decision_model.pth.tar").unlink()
    with pytest.raises(CheckpointError, match=r"leaves outputs.image.choice to decision_model.pth.tar"):
        load_release(MODEL.system, home, separate=folders)
