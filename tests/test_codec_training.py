"""A codec learns by itself: recipe, exact resume, PSNR, report, command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from examples import CODECS
from PIL import Image
from safetensors.torch import load_file

from omniform.cli.main import app
from omniform.codecs.mel_units import MelUnits
from omniform.data.dataset import Documents
from omniform.data.document import Document, Media
from omniform.data.pool import Pool, PoolLoader
from omniform.evaluation.reconstruction import reconstruct
from omniform.index import UnknownName
from omniform.training.codec import CodecJob, codec_job, open_codec, train_codec
from omniform.training.codec_recipe import load_codec_recipe, resolve_codec_recipe
from omniform.training.metrics import read_records
from omniform.training.plain import RecipeError
from omniform.training.recipe import load_recipe
from omniform.training.report import Quiet
from omniform.training.setup import set_up
from omniform.training.step import TrainingError
from omniform.views.fixed import Fixed
from omniform.views.windows import Windows
from omniform.weights.layout import CheckpointError

RECIPES = Path(__file__).parent.parent / "recipes"
TINY = {"part": "VqGan", "image": 8, "width": 32, "levels": [1, 1], "blocks": 1, "latent": 8, "dim": 4, "entries": 24}
SQUASH = Fixed(fit="squash")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    emoji = {"kind": "openmoji", "side": 16, "variants": False, "cache": str(tmp_path_factory.mktemp("drawn"))}
    return {
        "name": "small", "codec": TINY,
        "data": {"train": {**emoji, "split": "train", "limit": 12}, "test": {**emoji, "split": "test", "limit": 5}},
        "learn": {"data": "train", "lr": 3e-3, "batch": 4, "steps": 24, "renew": 4},
        "evaluate": {"data": "test"}, "checkpoint": {"steps": 8}, "log_every": 2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(plain: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    train_codec(resolve_codec_recipe(plain), folder, report=Quiet())
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def test_a_codec_learns(run: Path, plain: dict[str, Any]) -> None:
    recipe, trained = open_codec(run)
    torch.manual_seed(recipe.seed)
    fresh = recipe.codec.build().eval()
    job = codec_job(recipe)
    before, after = (reconstruct(model, job.pool).mean for model in (fresh, trained))
    assert after > before + 2.5, "dB"
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] / 2
    assert (run / "loss.png").is_file()


@pytest.mark.parametrize("kept", [1, 2])
def test_resumed_is_the_same_to_the_last_bit(run: Path, plain: dict[str, Any], tmp_path: Path, kept: int) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "model")
    steps = sorted((copy / "checkpoints").iterdir())
    assert [p.name for p in steps] == ["0-00000016", "1-00000000"]
    for later in steps[kept:]:
        shutil.rmtree(later)
    result = train_codec(resolve_codec_recipe(plain), copy, report=Quiet())
    assert result.state.overall == 24
    again, first = weights(copy), weights(run)
    assert again.keys() == first.keys()
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_another_recipe_in_the_same_directory_is_refused(run: Path, plain: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"run of another recipe \(codec\.entries: 24 before, 25 now\)"):
        train_codec(resolve_codec_recipe(plain, ["codec.entries=25"]), run, report=Quiet())


def test_resolved_recipe_is_a_recipe(plain: dict[str, Any]) -> None:
    recipe = resolve_codec_recipe(plain, ["learn.errors={absolute: 0.5}"])
    assert recipe.learn.errors == {"squared": 1.0, "absolute": 0.5, "codebook": 1.0}
    assert recipe.stages == (recipe.learn,)
    assert resolve_codec_recipe(recipe.resolved) == recipe


@pytest.mark.parametrize("path", sorted((RECIPES / "codecs").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_of_codecs_can_be_resolved(path: Path) -> None:
    recipe = load_codec_recipe(path)
    assert recipe.evaluate in (None, *recipe.data)
    assert recipe.codec.num_params() == sum(p.numel() for p in recipe.codec.build().parameters())


def test_a_system_starts_from_the_codec_that_was_trained(run: Path, tmp_path: Path) -> None:
    small = ["size=tiny", f"set={json.dumps({'inputs.image.codec': TINY})}", f"weights.image.codec={run / 'model'}"]
    setup = set_up(load_recipe(RECIPES / "emoji.yaml", small))
    theirs = setup.model.codecs["image"].state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in weights(run).items())
    assert not [name for name in setup.tensors(setup.recipe.stages) if name.startswith("codecs.")]


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("codec={part: VqGan, image: 9}", ValueError, "9 must divide by 16"),
        ("codec={part: Encodec}", RecipeError, "codec: Encodec cannot learn by itself here"),
        ("codec={part: Mlp}", RecipeError, "codec: Mlp is no codec"),
        ("codec={width: 32}", RecipeError, "codec: give a part and its fields"),
        ("codec={part: VqGan, widht: 32}", UnknownName, "field of VqGan in codec.*'width'"),
        ("learn.errors={sqared: 1}", UnknownName, "key in learn.errors.*'squared'"),
        ("learn={data: train, lr: 1}", RecipeError, "learn.batch is missing"),
        ("learn.epochs=2", RecipeError, "epochs 2.0 and steps 24"),
        ("learn.renew_part=2", RecipeError, "learn.renew_part: 2.0 is more than 1"),
        ("learn.data=trian", UnknownName, "dataset in learn.data.*'train'"),
        ("evaluate.data=tset", UnknownName, "dataset in evaluate.data.*'test'"),
        ("views={part: Linear}", RecipeError, "views: Linear is no views"),
    ],
)
def test_mistakes_in_a_recipe_are_explained(
    plain: dict[str, Any], override: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        resolve_codec_recipe(plain, [override])


def test_unused_entries_move_to_the_media() -> None:
    torch.manual_seed(0)
    module: Any = CODECS[0].build()
    with torch.no_grad():
        module.quantize.embedding.weight.add_(100.0)
        module.quantize.embedding.weight[0] -= 100.0
    pictures = torch.rand(2, 3, 8, 8)
    assert module.renew(pictures) == 23
    cells = module.features(pictures).flatten(2).transpose(1, 2).flatten(0, 1)
    table = module.quantize.embedding.weight
    assert all(bool((cells == entry).all(-1).any()) for entry in table[1:])
    assert len(module.encode(pictures).unique()) > 1


def test_errors_are_those_of_the_pictures() -> None:
    torch.manual_seed(0)
    module: Any = CODECS[0].build()
    pictures = torch.rand(2, 3, 8, 8)
    back = module.decode(module.encode(pictures), (8, 8))
    found = module.errors(pictures)
    assert found.keys() == CODECS[0].errors.keys()
    assert torch.allclose(found["squared"], (back - pictures).square().mean(), atol=1e-5)
    assert torch.allclose(found["absolute"], (back - pictures).abs().mean(), atol=1e-5)


def test_a_pool_holds_each_medium_once(tmp_path: Path) -> None:
    Image.new("RGB", (5, 9), (255, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    red, broken = Media("image", str(tmp_path / "red.png")), Media("image", str(tmp_path / "broken.png"))
    documents = Documents([Document((red,), "a"), Document((red,), "b"), Document((broken,), "c"), Document((), "d")])
    pool = Pool.of(documents, CODECS[0], SQUASH)
    assert (len(pool), pool.names) == (2, ("a", "c"))
    assert pool.read(0).shape == (3, 8, 8)
    assert pool.read(0)[0].min() == 255 and pool.read(0)[1].max() == 0
    assert len(Pool.of(documents, CODECS[0], SQUASH, limit=1)) == 1
    step = PoolLoader(pool, PoolLoader.batches(pool, 2, 0), on_bad_media="skip").step([0, 1])
    assert (step.documents, step.skipped_media, step.positions) == (1, 1, 4)
    assert "broken.png" in step.problem


def test_a_batch_of_bad_media_has_no_weight(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    documents = Documents([Document((Media("image", str(tmp_path / "broken.png")),))])
    pool = Pool.of(documents, CODECS[0], SQUASH)
    assert PoolLoader(pool, PoolLoader.batches(pool, 2, 0), on_bad_media="skip").step([0]).weight == 0
    with pytest.raises(ValueError, match=r"broken\.png is no picture"):
        PoolLoader(pool, PoolLoader.batches(pool, 2, 0)).step([0])


def test_media_whose_loss_is_not_finite_are_named(plain: dict[str, Any]) -> None:
    job: CodecJob = codec_job(resolve_codec_recipe(plain))
    with torch.no_grad():
        job.model.post_quant_conv.bias.fill_(float("nan"))
    names = job.culprits(job.loader(job.recipe.learn), 0, torch.device("cpu"))
    assert names.count("openmoji/train/") == 4
    with pytest.raises(TrainingError, match="'train' holds no image"):
        CodecJob(job.recipe, job.model, Pool.of(Documents([]), CODECS[0], SQUASH), {}).loader(job.recipe.learn)


def test_psnr_is_as_defined(run: Path, plain: dict[str, Any]) -> None:
    recipe, model = open_codec(run)
    found = reconstruct(model, codec_job(recipe).pool)
    off = found.given[3].double() - found.found[3].double()
    assert found.psnr[3] == pytest.approx(float(20 * torch.log10(255 / off.square().mean().sqrt())))
    assert found.mean == pytest.approx(sum(found.psnr) / 12)
    assert found.pooled < found.mean


def test_command_line_trains_measures_and_reconstructs(
    plain: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.yaml").write_text(json.dumps({**plain, "out": str(tmp_path / "run")}))
    steps = ["learn.steps=2", "learn.renew=0"]
    with pytest.raises(SystemExit) as end:
        app(["codec", "train", str(tmp_path / "small.yaml"), *steps, "--device", "cpu"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "2 steps, 8 media" in said and "5 images of test: PSNR" in said
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert page.count("<figure") == 5 and "openmoji/test/" in page and "mean PSNR" in page
    assert json.loads((tmp_path / "run" / "reconstruction.json").read_text())["count"] == 5
    Image.new("RGB", (20, 30), (0, 0, 255)).save(tmp_path / "blue.png")
    with pytest.raises(SystemExit) as end:
        app(["codec", "reconstruct", str(tmp_path / "run"), str(tmp_path / "blue.png"), "--out", str(tmp_path / "out")])
    assert end.value.code == 0
    with Image.open(tmp_path / "out" / "blue.codec.png") as back:
        assert back.size == (8, 8)
    assert "blue.codec.png" in capsys.readouterr().out


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"is not a run: it has no recipe\.yaml"):
        open_codec(tmp_path)
    (tmp_path / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    with pytest.raises(CheckpointError, match="not trained to its end; go on with `omniform codec train"):
        open_codec(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="damaged or of another codec"):
        open_codec(tmp_path)


def test_a_codec_learns_from_sounds(tmp_path: Path) -> None:
    """Sounds of other lengths and rates come to one length, and the loss falls."""
    rates, time = (16000, 8000, 16000, 22050), np.arange(4000) / 16000
    media = [Media("audio", (0.5 * np.sin(2000 * time[: 2000 + 500 * n]), rate)) for n, rate in enumerate(rates)]
    codec = MelUnits(units=8, mels=20, width=16)
    pool = Pool.of(Documents([Document((m,), str(n)) for n, m in enumerate(media)]), codec, Windows(most=1, least=1.0))
    assert [tuple(pool.read(n).shape) for n in range(4)] == [(1, 16000)] * 4
    assert not pool.read(0)[0, 2000:].any() and pool.read(0)[0, :2000].abs().max() > 0.49
    plain = {
        "name": "units", "codec": {"part": "MelUnits", "units": 8, "mels": 20, "width": 16},
        "views": {"part": "Windows", "most": 1, "least": 1.5}, "data": {"tones": {"kind": "tones", "limit": 12}},
        "learn": {"data": "tones", "lr": 1e-2, "batch": 4, "steps": 30, "renew": 5}, "log_every": 1,
    }  # fmt: skip
    result = train_codec(resolve_codec_recipe(plain), tmp_path / "run", report=Quiet())
    records = read_records(tmp_path / "run")
    assert records[-1]["loss"] < 0.5 * records[0]["loss"] and result.loss == records[-1]["loss"]
    _, module = open_codec(tmp_path / "run")
    assert module.encode(pool.read(0)).shape == (1, 32)
