"""One trainer for all systems: exactly the declared parts learn, the loss falls, and a step is what it says it is."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from omniform import index
from omniform.backbones.llama import Llama
from omniform.data.dataset import Documents
from omniform.data.document import Document
from omniform.spec import Learn, Lora, Undisclosed
from omniform.training.freeze import prefixes, start_learning, stop_learning
from omniform.training.lora import adapted_weights, inject, merge
from omniform.training.optimizer import make_optimizer
from omniform.training.plain import RecipeError
from omniform.training.recipe import Recipe, resolve_recipe
from omniform.training.report import Quiet, console_report
from omniform.training.run import train
from omniform.training.schedule import factor
from omniform.training.setup import Setup, grow_vocab, set_up, stage_loader
from omniform.training.stages import StageRun
from omniform.training.step import TrainingError, accumulate
from omniform.training.trainer import Trainer
from omniform.verify.small import DRAWN, data_of, modality_of

CPU = torch.device("cpu")
SLUGS = index.names("systems")
STAGES = [(slug, stage.name) for slug in SLUGS for stage in index.load("systems", slug).stages]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


DATA = {
    "image": {"kind": "easy-vqa", "split": "train", "limit": 4},
    "audio": {"kind": "tones", "limit": 12},
}
"""What a system learns from at tiny size, by what it reads."""
TABLES = r"\.(wte|embed(_in|_tokens)?)\."
"""Embeddings of tokens."""


def tiny(slug: str = "llava-1.5", *overrides: str, drawn: bool = False) -> Recipe:
    """All stages of a system at tiny size on four real pictures; what was never published is given.

    Args:
        drawn: with answers that are signals, where it writes some.
    """
    system = index.load("systems", slug)
    signals = [{**DRAWN[m], "limit": 3} for m in system.outputs if drawn and system.writes_signal(m)]
    read = {**data_of(system), **DATA[modality_of(system)]}
    stages: dict[str, Any] = {}
    for stage in system.stages:
        own: dict[str, Any] = {
            "data": "train",
            "batch": 16 if signals else 8,
            "steps": 3,
            "warmup": 0.0,
            "max_positions": 512,
        }
        own["learn"] = {item.part: {"lr": 1e-3, "first_layer": min(item.first_layer, 1)} for item in stage.learn}
        undisclosed = {"schedule": "cosine", "weight_decay": 0.0}
        own |= {key: value for key, value in undisclosed.items() if isinstance(getattr(stage, key), Undisclosed)}
        stages[stage.name] = own
    data = {
        "system": slug, "size": "tiny", "tokenizer": {"train": 300}, "stages": stages,
        "data": {"train": [*signals, {**read, "limit": 1}] if signals else read},
    }  # fmt: skip
    return resolve_recipe(data, overrides)


def gradients(setup: Setup, stage: StageRun, numbers: list[int], **loader: Any) -> dict[str, Tensor]:
    learning = start_learning(setup.model, stage)
    step = replace(stage_loader(setup, stage), **loader).step(numbers)
    setup.model.zero_grad(set_to_none=True)
    accumulate(setup.model, step, "float32", CPU, stage.outputs)
    return {name: p.grad.clone() for name, p in learning.parameters.items() if p.grad is not None}


def furthest(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Largest difference, relative to the largest gradient."""
    assert a.keys() == b.keys()
    scale = max(float(t.abs().max()) for t in a.values())
    return max(float((a[n] - b[n]).abs().max()) for n in a) / scale


# --- every system ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slug", "name"), STAGES, ids=["/".join(pair) for pair in STAGES])
def test_exactly_the_declared_parts_learn(slug: str, name: str):
    recipe = tiny(slug, drawn=True)
    stage = next(s for s in recipe.stages if s.name == name)
    setup = set_up(replace(recipe, stages=(stage,)))
    model = setup.model
    declared = {n for item in stage.learn for n, _ in model.parameters_of(item.part, item.first_layer)}
    if any(item.tokens for item in stage.learn):  # one table of the backbone, of which some rows learn
        tables = r"\.(wte|embed(_in|_tokens)?|lm_head)\." if any(i.head for i in stage.learn) else TABLES
        declared = {n for n in declared if not n.startswith("backbone.") or re.search(tables, n)}
    modality = next(iter(setup.system.inputs))  # the data hold this one only
    placed = stage.views.get(modality, setup.system.inputs[modality].views).learned
    declared = {n for n in declared if ".learned." not in n or n.rpartition(".")[2] in placed}
    if stage.experts == "joined":  # nothing is routed yet
        declared = {n for n in declared if ".router." not in n}
    if stage.lora:
        declared |= adapted_weights(model, stage.lora)
    still = {n: t.clone() for n, t in (*model.named_parameters(), *model.named_buffers())}
    run_stage(setup, stage)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, still[n])}
    assert changed == declared != set()
    statistics = {n for n, b in model.named_buffers() if not torch.equal(b, still[n])}
    assert all(n.startswith(prefixes(model, tuple(i.part for i in stage.learn))) for n in statistics)
    assert model.state_dict().keys() == set_up_keys(setup)


def set_up_keys(setup: Setup) -> set[str]:
    return set(setup.system.build().state_dict())


def run_stage(setup: Setup, stage: StageRun, steps: int = 3) -> list[float]:
    """The first optimizer steps of a stage, without schedule and files; gives the losses."""
    learning = start_learning(setup.model, stage, setup.tokenizer.id_of)
    optimizer = make_optimizer(learning, stage.weight_decay)
    losses = []
    for step in stage_loader(setup, stage).steps(0, steps):
        losses.append(float(accumulate(setup.model, step, "float32", CPU, stage.outputs)))
        torch.nn.utils.clip_grad_norm_(learning.parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    stop_learning(setup.model, stage, learning)
    return losses


@pytest.mark.parametrize("slug", SLUGS)
def test_the_loss_falls(slug: str):
    recipe = tiny(slug)
    paths = [path for path in recipe.system.parts() if not path.endswith((".decoder", ".codec", ".diffusion"))]
    learn = tuple(Learn(part=p, lr=1e-2) for p in paths)
    words = ("text",) if recipe.system.told_along else ()  # what is told along is no choice among the vocabulary
    stage = replace(recipe.stages[-1], learn=learn, lora=None, outputs=words)
    setup = set_up(replace(recipe, stages=(stage,)))
    setup = replace(setup, datasets={"train": Documents([setup.datasets["train"][n] for n in (0, 1, 10, 11)])})
    losses = [loss / setup.system.loss_weights["text"] for loss in run_stage(setup, stage, 25)]
    assert abs(losses[0] - math.log(setup.tokenizer.size)) < 1.0
    assert losses[-1] < 0.8


# --- one step ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setup() -> Setup:
    return set_up(tiny())


def test_accumulation_equals_no_accumulation(setup: Setup):
    stage = setup.recipe.stages[1]
    numbers = list(range(20))
    loader = stage_loader(setup, stage)
    assert len(replace(loader, pack_positions=150).step(numbers).micro) > 3 > len(loader.step(numbers).micro) == 1
    whole, parts = gradients(setup, stage, numbers), gradients(setup, stage, numbers, pack_positions=150)
    assert furthest(whole, parts) < 1e-6


def test_shared_trunks_give_the_gradient_of_documents_that_stand_alone(setup: Setup):
    stage = setup.recipe.stages[1]
    stage = replace(stage, learn=(*stage.learn, Learn(part="image.encoder", lr=1e-3)))
    numbers = list(range(20))
    loader = stage_loader(setup, stage)
    shared, alone = loader.step(numbers), replace(loader, trees=False).step(numbers)
    assert shared.positions < 0.6 * alone.positions and shared.weight == alone.weight
    assert furthest(gradients(setup, stage, numbers), gradients(setup, stage, numbers, trees=False)) < 1e-5


def test_text_only_documents_train_among_others(setup: Setup):
    stage = setup.recipe.stages[1]
    pictures = setup.datasets["train"]
    mixed = Documents([pictures[0], Document.ask("what is red?", answer="a colour"), pictures[1]])
    words = Documents([mixed[1]])
    both, only_words = (replace(setup, datasets={"train": d}) for d in (mixed, words))
    names = gradients(both, stage, [0, 1, 2]).keys()
    grads = gradients(only_words, stage, [0])
    assert grads.keys() == names, "a batch without pictures gives every learning parameter a gradient"
    connector = [g for n, g in grads.items() if ".connector." in n]
    assert connector and all(not g.any() for g in connector)
    assert any(g.any() for n, g in grads.items() if n.startswith("backbone."))
    losses = run_stage(both, stage, 8)
    assert losses[-1] < losses[0] - 0.1


def test_bfloat16_keeps_float32_weights(setup: Setup):
    stage = setup.recipe.stages[1]
    exact = gradients(setup, stage, list(range(8)))
    learning = start_learning(setup.model, stage)
    setup.model.zero_grad(set_to_none=True)
    accumulate(setup.model, stage_loader(setup, stage).step(range(8)), "bfloat16", CPU)
    rough = {n: p.grad for n, p in learning.parameters.items() if p.grad is not None}
    assert {g.dtype for g in rough.values()} == {torch.float32}
    assert 1e-6 < furthest(exact, rough) < 0.05


# --- schedule and optimizer --------------------------------------------------------------------------------------


def test_schedule_values():
    cosine = [factor("cosine", step, 10, 0.2) for step in range(10)]
    assert cosine[:3] == [0.5, 1.0, 1.0]
    assert cosine[6] == pytest.approx(0.5) and cosine[9] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert [factor("linear", step, 5, 0.2) for step in range(5)] == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.25])
    assert [factor("constant", step, 4, 0.5) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert factor("cosine", 0, 1, 0.0) == 1.0


def test_parts_have_their_own_lr_and_vectors_do_not_decay(setup: Setup):
    stage = replace(
        setup.recipe.stages[1], learn=(Learn(part="image.connector", lr=1e-3), Learn(part="backbone", lr=2e-5))
    )
    optimizer = make_optimizer(start_learning(setup.model, stage), 0.1)
    groups = [(g["peak_lr"], g["weight_decay"], {p.ndim > 1 for p in g["params"]}) for g in optimizer.param_groups]
    assert groups == [(1e-3, 0.1, {True}), (1e-3, 0.0, {False}), (2e-5, 0.1, {True}), (2e-5, 0.0, {False})]


def test_only_layers_from_the_first_on_learn(setup: Setup):
    stage = replace(setup.recipe.stages[1], learn=(Learn(part="backbone", lr=1e-3, first_layer=1),))
    names = start_learning(setup.model, stage).parameters
    assert names and all(".layers.1." in n for n in names)
    assert {n for n, p in setup.model.named_parameters() if p.requires_grad} == names.keys()


def test_a_parameter_learns_once(setup: Setup):
    twice = (Learn(part="backbone", lr=1e-3), Learn(part="backbone", lr=1e-4, first_layer=1))
    with pytest.raises(ValueError, match=r"two entries of learn name backbone\.lm\.model\.layers\.1"):
        start_learning(setup.model, replace(setup.recipe.stages[1], learn=twice))


# --- low-rank adapters and vocabulary ----------------------------------------------------------------------------


def test_adapters_on_some_layers_only():
    model = set_up(tiny()).model
    lora = Lora(rank=2, alpha=4, lr=1e-3, layers=("q_proj", "v_proj"))
    names = {n.split(".lora_")[0].rpartition(".")[2] for n in inject(model, lora)}
    assert names == {"q_proj", "v_proj"}
    with pytest.raises(RecipeError, match=r"no linear layer of backbone for lora named 'q_prj'; did you mean 'q_proj'"):
        inject(set_up(tiny()).model, replace(lora, layers=("q_prj",)))


@pytest.mark.parametrize("part", ["backbone", "image.encoder"])
def test_merged_adapters_give_the_same_numbers(part: str):
    setup = set_up(tiny())
    batch = stage_loader(setup, setup.recipe.stages[1]).step(range(4)).micro[0]
    model = setup.model.eval()
    with torch.no_grad():
        start = model.hidden(batch)
        adapters = inject(model, Lora(part=part, rank=2, alpha=4, lr=1e-3))
        assert torch.equal(model.hidden(batch), start), "adapters start as nothing"
        for name, parameter in adapters.items():
            assert parameter.shape[0 if "lora_A" in name else 1] == 2
            parameter.normal_(std=0.1)
        adapted = model.hidden(batch)
        merge(model, part)
        merged = model.hidden(batch)
    assert (adapted - start).abs().max() > 1e-2
    assert (merged - adapted).abs().max() < 1e-5


def test_new_tokens_start_as_the_mean_of_the_old():
    setup = set_up(tiny())
    model = setup.model
    old = [layer.weight.clone() for layer in (model.backbone.lm.get_input_embeddings(), model.backbone.lm.lm_head)]
    size = setup.tokenizer.size
    grow_vocab(model, size + 2, 2)
    new = [layer.weight for layer in (model.backbone.lm.get_input_embeddings(), model.backbone.lm.lm_head)]
    for before, after in zip(old, new, strict=True):
        assert torch.equal(after[:size], before) and len(after) == size + 2
        assert torch.allclose(after[size:], before.mean(0).expand(2, -1), atol=1e-7)
    assert model.system.backbone.vocab == size + 2 == model.backbone.lm.config.vocab_size
    assert model.system.build().load_state_dict(model.state_dict())


# --- whole runs --------------------------------------------------------------------------------------------------


def test_a_run_leaves_metrics_pictures_and_a_model(tmp_path: Path):
    recipe = tiny(
        "llava-1.5",
        "log_every=2",
        "stages.finetune.lora={rank: 2, alpha: 4, lr: 1e-3}",
        "stages.finetune.learn={backbone: null}",
    )
    result = train(recipe, tmp_path / "run", report=Quiet())
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"], r["overall"]) for r in records] == [
        ("pretrain", 2, 2), ("pretrain", 3, 3), ("finetune", 2, 5), ("finetune", 3, 6),
    ]  # fmt: skip
    assert result.loss == records[-1]["loss"] and records[-1]["documents"] == result.state.documents == 48
    assert (tmp_path / "run/loss.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((tmp_path / "run/events").iterdir())) == 2
    assert [p.name for p in sorted((tmp_path / "run/checkpoints").iterdir())] == ["1-00000000", "2-00000000"]
    assert result.model_path.is_dir() and (tmp_path / "run/tokenizer/tokenizer.json").is_file()


def test_progress_is_plain_lines_where_there_is_no_terminal(tmp_path: Path):
    page = io.StringIO()
    report = console_report(Console(file=page, width=200))
    train(tiny("llava-1.5", "stages.finetune.lr_scale=2"), tmp_path / "run", report=report)
    lines = page.getvalue().splitlines()
    number = r"[\d,]+"
    shape = rf"finetune 3/3  loss \d\.\d{{4}}  lr 5\.0e-04  {number} documents/s  {number} positions/s  ETA 0:00:00"
    assert len(lines) == 2 and re.fullmatch(shape, lines[1])
    train(tiny("llava-1.5", "stages.finetune.lr_scale=2"), tmp_path / "run", report=report)
    assert page.getvalue().splitlines()[2].endswith("run: all stages are done")


def test_a_backbone_that_cannot_share_media_says_so_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shared = train(tiny(), tmp_path / "shared", report=Quiet())
    monkeypatch.setattr(Llama, "trees", False)
    page = io.StringIO()
    alone = train(tiny(), tmp_path / "alone", report=console_report(Console(file=page, width=200)))
    said = "shares no positions between documents: each is read whole, equal media are encoded once"
    assert page.getvalue().count(said) == 2  # stages
    assert alone.state.positions > shared.state.positions and alone.loss == pytest.approx(shared.loss, rel=1e-4)


def test_progress_is_a_bar_in_a_terminal(tmp_path: Path):
    page = io.StringIO()
    report = console_report(Console(file=page, width=200, force_terminal=True))
    train(tiny(), tmp_path / "run", report=report)
    text = page.getvalue()
    assert "pretrain" in text and "3/3" in text and "documents/s" in text and "ETA" in text


def test_documents_with_bad_media_stop_the_run_or_are_counted(tmp_path: Path):
    picture = str(set_up(tiny()).datasets["train"][0].media[0].source)
    rows = [
        {"messages": [{"role": "user", "content": [{"type": "image", "path": path}, {"type": "text", "text": "?"}]},
                      {"role": "assistant", "content": "yes"}]}
        for path in (picture, "missing.png", picture)
    ]  # fmt: skip
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    chat = f"data.train={{kind: chat, path: {tmp_path / 'data.jsonl'}}}"
    skip = [f"stages.{name}.on_bad_media=skip" for name in ("pretrain", "finetune")]
    with pytest.raises(ValueError, match=r"missing\.png"):
        train(tiny("llava-1.5", chat), tmp_path / "stops", report=Quiet())
    result = train(tiny("llava-1.5", chat, *skip), tmp_path / "skips", report=Quiet())
    assert (result.state.skipped_media, result.state.documents) == (6, 12)
    assert "missing.png" in result.state.last_problem


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_documents(tmp_path: Path):
    recipe = tiny()
    setup = set_up(replace(recipe, stages=recipe.stages[1:]))
    documents = [
        setup.datasets["train"][0],
        Document.ask("what?", answer="a zebra", image=setup.datasets["train"][0].media[0].source),
    ]
    documents[1] = replace(documents[1], id="the bad one")
    with torch.no_grad():
        for token in setup.tokenizer.encode(" zebra")[0]:
            if token not in setup.tokenizer.encode(setup.system.prompt.system)[0]:
                setup.model.backbone.lm.get_input_embeddings().weight[token] = float("nan")
    before = {n: p.clone() for n, p in setup.model.named_parameters()}
    trainer = Trainer(replace(setup, datasets={"train": Documents(documents)}), tmp_path, Quiet(), CPU)
    with pytest.raises(TrainingError, match=r"stage 'finetune', step 0: the loss is nan; documents: the bad one\. "):
        trainer.run(None)
    assert all(torch.equal(p.nan_to_num(), before[n].nan_to_num()) for n, p in setup.model.named_parameters())


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RecipeError, match=r"holds other files and no recipe\.yaml"):
        train(tiny(), tmp_path, report=Quiet())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(RecipeError, match=r"thesis\.txt is a file"):
        train(tiny(), tmp_path / "thesis.txt", report=Quiet())
