"""Latent diffusion on a codec's features: what learns, what is measured, paths, guidance, dropped conditions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from omniform import index
from omniform.batch import Batch, Tree
from omniform.codecs.encodec import ENCODEC_24K
from omniform.codecs.vqgan import VqGan
from omniform.connectors.query_transformer import QueryTransformer
from omniform.cost.parameters import learning, parameters
from omniform.decoders.codes import Codes
from omniform.decoders.regressed import Regressed
from omniform.decoders.text import Text
from omniform.diffusion.codec_unet import CodecUnet
from omniform.frozen import FrozenMap
from omniform.geometry import SpecError
from omniform.model import Lmm
from omniform.spec import Learn, System
from omniform.training.freeze import taught
from omniform.training.plain import RecipeError
from omniform.training.recipe import Recipe, resolve_recipe
from omniform.training.report import Quiet
from omniform.training.setup import set_up
from omniform.training.trainer import Trainer
from omniform.views.fixed import Fixed
from omniform.weights import store

SPEC = CodecUnet(codec=VqGan(), draws=2).shrunk("tiny")
FORM = Regressed(
    tokens=("<a>", "<b>"), head=QueryTransformer(positions=4), losses={"noise": 1.0}, dropped=0.5,
    diffusion=SPEC, views=Fixed(fit="squash"),
).but(head=QueryTransformer(positions=4).shrunk("tiny"))  # fmt: skip
SYSTEM: System = index.system("gill").shrunk("tiny").but(outputs=FrozenMap(text=Text(), image=FORM))


def built(spec: CodecUnet = SPEC) -> Any:
    torch.manual_seed(0)
    return spec.build(codec=spec.codec.build().eval()).eval()


def pictures(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, *SPEC.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


# --- declaration -------------------------------------------------------------------------------------------------


def test_sizes() -> None:
    spec = CodecUnet(codec=VqGan(image=64, levels=(1, 1, 2), dim=16), condition=96, rows=3)
    assert (spec.size, spec.cells, spec.positions, spec.width) == ((64, 64), (16, 16), 3, 96)
    with torch.device("meta"):
        module = spec.build(codec=spec.codec.build())
    assert sum(p.numel() for p in module.parameters()) == spec.num_params()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"channels": (32, 40)}, r"channels \[40\] of a UNet of two levels or more do not divide into 32 groups"),
        ({"channels": (32,)}, r"channels \(32,\) of a UNet of two levels or more"),
        ({"channels": (32, 64), "heads": 3}, r"channels \(64,\) do not divide into 3 heads"),
        ({"channels": (32,) * 6}, r"a UNet of 6 levels halves its map 5 times, but the codec has 16x16 cells"),
        ({"draws": 0}, r"seen under 0 strengths of noise; give at least one"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        CodecUnet(codec=VqGan(), **changes)


def test_a_codec_without_a_map_of_features_is_refused() -> None:
    with pytest.raises(SpecError, match=r"Encodec gives no map of a picture's features"):
        CodecUnet(codec=ENCODEC_24K)


def test_what_needs_words_is_refused() -> None:
    with pytest.raises(SpecError, match=r"losses distance compare with the condition of a caption, but Latent diffus"):
        FORM.but(losses={"distance": 1.0})
    with pytest.raises(SpecError, match=r"dropped 1.0 is no share of media"):
        FORM.but(dropped=1.0)
    with pytest.raises(ValueError, match=r"Latent diffusion reads no words, such as 'a cat'"):
        built().condition(["", "a cat"])


def test_the_codec_is_a_part_of_the_system() -> None:
    model: Lmm = SYSTEM.build()
    counted = parameters(SYSTEM)
    assert SYSTEM.parts()["image.codec"] == SPEC.codec and SYSTEM.tokenised == () and SYSTEM.output_type == 2
    assert model.part("image.diffusion").codec is model.part("image.codec") is model.codecs["image"]
    for path in ("image.codec", "image.diffusion"):
        assert counted[path] == sum(p.numel() for p in model.part(path).parameters())
    assert sum(counted.values()) == sum(p.numel() for p in model.parameters())


def test_two_codecs_of_a_modality_are_refused() -> None:
    chameleon: System = index.system("chameleon").shrunk("tiny")
    assert isinstance(chameleon.outputs["image"], Codes)
    with pytest.raises(SpecError, match=r"Latent diffusion is on another codec than image has codes of; use one"):
        chameleon.but(outputs=FrozenMap(text=Text(), image=FORM))


# --- latents -----------------------------------------------------------------------------------------------------


def test_the_first_batch_that_is_learned_tells_mean_and_scale() -> None:
    module, views = built(), pictures(5)
    features = module.codec.features(module.codec.normalise(views)).detach()
    assert torch.equal(module.latents(views), features)
    latents = module.train().latents(views)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-5 and latents.square().mean() == pytest.approx(1, rel=1e-4)
    assert torch.allclose(latents / module.scale + module.mean, features, atol=1e-5)
    before = module.mean.clone()
    module.latents(pictures(2))
    assert torch.equal(module.mean, before)


def test_the_loss_is_that_of_the_velocity() -> None:
    """A UNet that tells nothing is off by the noise and the latents."""
    module, views = built(SPEC.but(draws=400)).train(), pictures(3)
    latents = module.latents(views)
    for parameter in module.unet.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    found = module.noise_loss(module.condition([""] * 3), views)
    assert torch.allclose(found, 1 + latents.square().flatten(1).mean(1), rtol=0.05)


def test_where_the_velocity_is_known_paths_end_at_the_picture() -> None:
    module, views = built().train(), pictures(1)
    latents = module.latents(views)

    def known(noisy: Tensor, times: Tensor, given: Tensor) -> Tensor:
        """The one picture that there is."""
        return (noisy - latents) / (times / 1000)[:, None, None, None]

    module._velocity = known
    nothing = module.condition([""])
    (made,) = module.render(nothing, nothing, torch.Generator().manual_seed(0), 3.0, 4)
    codes = module.codec.encode(module.codec.normalise(views))[0]
    assert made.tobytes() == module.codec.render(codes).tobytes()


def test_guidance_leads_away_from_no_words() -> None:
    module = built()
    given, nothing = torch.randn(2, 4, 12), module.condition([""]).detach()

    def told(condition: Tensor, guidance: float) -> list[bytes]:
        made = module.render(condition, nothing, torch.Generator().manual_seed(3), guidance, 3)
        return [picture.tobytes() for picture in made]

    def velocity(noisy: Tensor, times: Tensor, rows: Tensor) -> Tensor:
        return torch.ones_like(noisy) * rows.mean((1, 2))[:, None, None, None]

    module._velocity = velocity
    away = nothing + 2.5 * (given - nothing)
    assert told(given, 2.5) == told(away, 1.0) and told(given, 1.0) == told(given, 1.0) != told(given, 2.5)
    assert len(set(told(given, 2.5))) == 2


def test_the_same_seed_makes_the_same_picture() -> None:
    module, given = built(), torch.randn(1, 4, 12)
    nothing = module.condition([""])
    made = [module.render(given, nothing, torch.Generator().manual_seed(s), 3.0, 2)[0] for s in (1, 1, 2)]
    assert made[0].size == SPEC.size and np.asarray(made[0]).std() > 0
    assert made[0].tobytes() == made[1].tobytes() != made[2].tobytes()


# --- learning ----------------------------------------------------------------------------------------------------


def test_some_conditions_are_dropped_while_the_model_learns() -> None:
    decoder = FORM.but(dropped=0.25).build(dim=8)
    model = built()
    decoder.attach(model)
    condition = torch.zeros(4000, 4, 12)
    assert torch.equal(decoder._some_dropped(condition), condition)
    model.train()
    found = decoder._some_dropped(condition)
    dropped = (found != 0).flatten(1).any(1)
    assert dropped.float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(found[dropped], model.nothing.expand(int(dropped.sum()), -1, -1))


def test_a_batch_without_media_gives_all_that_learns_a_gradient() -> None:
    model = SYSTEM.build().requires_grad_(False).train()
    for part in ("image.diffusion", "image.decoder"):
        model.part(part).requires_grad_(True)
    batch = Batch(ids=torch.arange(4), positions=torch.arange(4), tree=Tree.of([4]), predict_at=torch.tensor([1]),
                  targets=torch.tensor([2]), weights=torch.ones(1))  # fmt: skip
    loss = model(batch)["image"]
    loss.total.backward()
    assert loss.total == loss.weight == 0
    learning_ = [p for part in ("image.diffusion", "image.decoder") for p in model.part(part).parameters()]
    assert all(p.grad is not None and not p.grad.any() for p in learning_)


def recipe(folder: Path, weights: str | None) -> Recipe:
    codec = {
        "part": "VqGan", "image": 8, "width": 32, "levels": [1, 1, 1], "blocks": 1, "latent": 8, "dim": 4,
        "entries": 24,
    }  # fmt: skip
    unet = {
        "part": "CodecUnet", "codec": codec, "rows": 4, "condition": 12, "channels": [8, 12], "heads": 2, "blocks": 1,
        "groups": 4,
    }  # fmt: skip
    head = {"part": "QueryTransformer", "positions": 4, "width": 16, "layers": 1, "heads": 2, "mlp_dim": 24}
    drawn = {
        "part": "Regressed", "tokens": [f"[IMG{n}]" for n in range(8)], "learned": 1, "head": head, "diffusion": unet,
        "losses": {"noise": 1.0}, "dropped": 0.2, "views": {"part": "Fixed", "fit": "squash"},
    }  # fmt: skip
    learn = {"image.connector": None, "image.decoder": 1e-2, "image.diffusion": 1e-2,
             "backbone": {"lr": 1e-2, "tokens": []}}  # fmt: skip
    return resolve_recipe(
        {
            "system": "gill", "size": "tiny", "set": {"outputs.image": drawn, "outputs.text.weight": 1.0},
            "tokenizer": {"train": 512}, "weights": {"image.codec": weights} if weights else {},
            "data": {"few": {"kind": "easy-vqa", "split": "test", "form": "drawings", "limit": 6}},
            "stages": {"train": {"data": "few", "learn": learn, "batch": 6, "steps": 30, "schedule": "constant",
                                 "warmup": 0.0}},
            "log_every": 1, "checkpoint": {"seconds": None}, "out": str(folder / "run"),
        }
    )  # fmt: skip


def test_everything_but_the_codec_learns_in_a_recipe(tmp_path: Path) -> None:
    torch.manual_seed(5)
    codec = SPEC.codec.build()
    for name in ("codec", "run"):
        (tmp_path / name).mkdir()
    save_file(codec.state_dict(), tmp_path / "codec" / "model.safetensors")
    setup = set_up(recipe(tmp_path, str(tmp_path / "codec")))
    before = {name: p.detach().clone() for name, p in setup.model.named_parameters()}
    assert all(torch.equal(t, setup.model.codecs["image"].state_dict()[n]) for n, t in codec.state_dict().items())
    Trainer(setup, tmp_path / "run", Quiet(), torch.device("cpu")).run(None)
    moved = {name for name, p in setup.model.named_parameters() if not torch.equal(before[name], p)}
    stage = setup.recipe.stages[0]
    assert moved == taught(setup.model, stage)
    assert {name for name in moved if name.startswith(("diffusion.", "codecs."))} == {
        f"diffusion.image.{name}" for name, _ in setup.model.part("image.diffusion").named_parameters()
    }
    assert not any(name.startswith("codecs.") for name in setup.tensors((stage,)))
    store.save(setup.model, tmp_path / "model")
    again = store.load(tmp_path / "model")
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in setup.model.state_dict().items())
    assert again.part("image.diffusion").measured.all() and again.part("image.diffusion").scale != 1


def test_only_the_denoiser_of_a_released_model_learns() -> None:
    """The autoencoder and the text encoder of Stable Diffusion stand still, as where systems train its UNet."""
    system: System = index.system("next-gpt").shrunk("tiny")
    stage = replace(system.stages[0], learn=(Learn(part="image.diffusion", lr=1e-3),))
    counted = learning(system, stage)
    model: Lmm = system.build()
    named = dict(model.parameters_of("image.diffusion"))
    assert all(name.startswith("diffusion.image.unet.") for name in named)
    assert counted == {"image.diffusion": sum(p.numel() for p in named.values())}


def test_an_unknown_place_of_a_codec_is_refused(tmp_path: Path) -> None:
    with pytest.raises((RecipeError, ValueError), match="nowhere"):
        set_up(recipe(tmp_path, str(tmp_path / "nowhere")))
