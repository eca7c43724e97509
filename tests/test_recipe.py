"""Recipes: YAML and overrides become one frozen, resolved run; what cannot run is refused in one sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from omniform import index
from omniform.backbones.llama import Llama
from omniform.index import UnknownName
from omniform.spec import Learn, Lora, SpecError, System, Undisclosed
from omniform.training.compose import compose
from omniform.training.plain import RecipeError, differences, parse_yaml, read_yaml
from omniform.training.recipe import Recipe, load_recipe, resolve_recipe
from omniform.training.stages import resolve_stage

RECIPES = Path(__file__).parent.parent / "recipes"
SYSTEM = index.load("systems", "llava-1.5")


def recipe(*overrides: str) -> Recipe:
    data = {
        "system": "llava-1.5",
        "size": "tiny",
        "tokenizer": {"train": 300},
        "data": {"train": {"kind": "easy-vqa", "split": "train"}},
        "stages": {"pretrain": {"data": "train"}, "finetune": {"data": "train"}},
    }
    return resolve_recipe(data, overrides)


def test_a_stage_is_the_systems_with_the_recipes_fields_over_it():
    pretrain, finetune = recipe("stages.finetune.batch=16", "stages.finetune.learn.backbone=1e-4").stages
    assert (pretrain.batch, pretrain.epochs, pretrain.schedule, pretrain.warmup) == (256, 1.0, "cosine", 0.03)
    assert pretrain.learn == (Learn(part="image.connector", lr=1e-3),)
    assert pretrain.prompt == SYSTEM.stages[0].prompt and finetune.prompt is None
    assert finetune.batch == 16
    assert finetune.learn == (Learn(part="image.connector", lr=2e-5), Learn(part="backbone", lr=1e-4))
    assert finetune.max_positions == 512, "the tiny backbone's context"


def test_stages_that_are_not_named_are_skipped():
    made = recipe()
    data = {**made.resolved, "stages": {"finetune": {"data": "train"}}}
    assert [s.name for s in resolve_recipe(data).stages] == ["finetune"]
    assert [s.name for s in recipe("stages.pretrain=null").stages] == ["finetune"]
    with pytest.raises(RecipeError, match=r"stages: name at least one stage of llava-1.5: pretrain, finetune"):
        recipe("stages.pretrain=null", "stages.finetune=null")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_a_resolved_recipe_is_a_recipe_itself(path: Path):
    first = load_recipe(path)
    again = resolve_recipe(parse_yaml(first.yaml(), "printed"))
    assert again == first
    assert not list(differences(first.resolved, again.resolved))


def test_all_lrs_are_scaled_and_parts_can_be_told_not_to_learn():
    changes = (
        "stages.finetune.lr_scale=10",
        "stages.finetune.learn={backbone: null, image.encoder: {first_layer: 1, lr: 1e-4}}",
    )
    stage = recipe(*changes).stages[1]
    assert [(i.part, i.first_layer) for i in stage.learn] == [("image.connector", 0), ("image.encoder", 1)]
    assert [i.lr for i in stage.learn] == pytest.approx([2e-4, 1e-3])
    assert resolve_recipe(recipe(*changes).resolved).stages[1] == stage


def test_lora_takes_the_place_of_full_learning():
    lora = "stages.finetune.lora={rank: 4, alpha: 8, lr: 2e-4}"
    with pytest.raises(RecipeError, match=r"backbone learns in full and by lora; write `backbone: null` in learn"):
        recipe(lora)
    stage = recipe(lora, "stages.finetune.learn.backbone=null").stages[1]
    assert stage.lora == Lora(part="backbone", rank=4, alpha=8.0, dropout=0.0, lr=2e-4)
    assert [i.part for i in stage.learn] == ["image.connector"]
    few = "stages.finetune.lora={rank: 4, alpha: 8, lr: 2e-4, layers: [q_proj, v_proj]}"
    resolved = recipe(few, "stages.finetune.learn.backbone=null")
    assert resolved.stages[1].lora == replace(stage.lora, layers=("q_proj", "v_proj"))
    assert resolve_recipe(resolved.resolved).stages[1] == resolved.stages[1]


def test_steps_take_the_place_of_epochs():
    stage = recipe("stages.finetune.steps=7").stages[1]
    assert (stage.steps, stage.epochs, stage.total_steps(100)) == (7, None, 7)
    assert recipe("stages.finetune.epochs=2.5").stages[1].total_steps(100) == 250
    with pytest.raises(RecipeError, match="give one of them"):
        recipe("stages.finetune.steps=7", "stages.finetune.epochs=1")


def test_numbers_that_were_never_published_must_be_given():
    system = SYSTEM.but(
        {
            "stages.pretrain.batch": Undisclosed("section 3"),
            "stages.pretrain.learn": (Learn(part="backbone", lr=Undisclosed()),),
        }
    )
    stage = system.stages[0]
    with pytest.raises(RecipeError, match=r"batch \(section 3\); learn: {backbone: LR}. Give a value"):
        resolve_stage(system, stage, {"data": "x"})
    made = resolve_stage(system, stage, {"data": "x", "batch": 8, "learn": {"backbone": 1e-5}})
    assert (made.batch, made.learn) == (8, (Learn(part="backbone", lr=1e-5),))


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("stages.finetune.bacth=1", r"no key in stages.finetune named 'bacth'; did you mean 'batch'\?"),
        ("sytem=llava", r"no key in the recipe named 'sytem'; did you mean 'system'"),
        ("system=lava-1.5", r"no system named 'lava-1.5'; did you mean 'llava-1.5'"),
        ("stages.finetun={}", r"no stage of llava-1.5 named 'finetun'; did you mean 'finetune'\?"),
        ("stages.finetune.data=trian", r"no dataset in stages.finetune.data named 'trian'; did you mean 'train'\?"),
        ("stages.finetune.learn.image.conector=1", r"'image.conector'; did you mean 'image.connector'"),
        ("stages.finetune.schedule=cosin", r"'cosin'; did you mean 'cosine'\?"),
        ("stages.finetune.batch=many", r"stages.finetune.batch: 'many' is not a whole number"),
        ("stages.finetune.batch=0", r"stages.finetune.batch: 0 is less than 1"),
        ("stages.finetune.warmup=3", r"stages.finetune.warmup: 3.0 is more than 1"),
        ("stages.finetune.max_positions=4096", r"4096, but the backbone was made for 512 positions"),
        ("stages.finetune.learn={image.connector: null, backbone: null}", r"no part learns"),
        ("tokenizer={train: 300, path: x}", r"tokenizer: give one of"),
        ("weights.bakbone=x", r"no part in weights named 'bakbone'; did you mean 'backbone'\?"),
        ("evaluate.data=tset", r"no dataset in evaluate.data named 'tset'"),
        ("precision=fp8", r"no value of precision named 'fp8'"),
        ("checkpoint.keep_last=0", r"checkpoint.keep_last: 0 is less than 1"),
        ("seed=1.5", r"seed: 1.5 is not a whole number"),
        ("name=../x", r"name: '../x' is used as a directory name"),
        ("data={}", r"data: give at least one dataset"),
        ("nonsense", r"write key=value"),
        ("seed.deeper=1", r"seed: {'deeper': 1} is not a whole number"),
        ("set.backbone.layer=3", r"no entry of backbone named 'layer'; did you mean 'layers'"),
        ("set.inputs.image.encoder={part: Mlp}", r"holds a part of kind encoder, not Mlp \(connector\)"),
        ("set.inputs.image.encoder=3", r"holds a part of kind encoder, not 3"),
        ("set.inputs.image.connector={part: Mpl}", r"no part named 'Mpl'; did you mean .*'Mlp'"),
        ("set.inputs.image.connector={part: Mlp, deph: 3}", r"no field of Mlp in set.* named 'deph'; did you"),
        ("set.inputs.image.connector={part: Mlp, depth: two}", r"set.inputs.image.connector.depth: 'two' is not int"),
        ("set.backbone.layers=two", r"set.backbone.layers: 'two' is not int"),
        ("set.backbone={part: Llama}", r"Llama needs dim, layers, "),
        ("set.inputs.audoi={part: Mlp}", r"no entry of inputs named 'audoi'; did you mean 'audio'\?"),
        ("set.inputs.audio={part: Mlp}", r"set.inputs.audio: Mlp.* is not inputs.Continuous \| inputs.Shared"),
        ("set.inputs.audio={views: {part: Windows}}", r"set.inputs.audio: .* is not inputs.Continuous"),
        ("set.inputs.audio.views={part: Windows}", r"no entry of inputs named 'audio'; known: image"),
        ("set.inputs.audio={part: Continous}", r"no part named 'Continous'; did you mean 'Continuous'"),
        ("set.published_params.audio=3", r"no entry of published_params named 'audio'"),
        ("set.audio={part: Mlp}", r"no entry of System named 'audio'"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_in_one_sentence(override: str, error: str):
    with pytest.raises((RecipeError, UnknownName), match=error) as caught:
        recipe(override)
    assert "\n" not in str(caught.value)


def test_a_system_is_composed_in_the_recipe():
    made = recipe(
        "set.inputs.image={connector: {part: Mlp, depth: 3}, encoder.layers: 5}",
        "set.backbone={part: Llama, dim: 64, layers: 1, heads: 2, kv_heads: 1, mlp_dim: 96, vocab: 300, context: 256}",
        "set.backbone.layers=2",
        "set.prompt={header: 'A:', stop: ['</s>', '!']}",
    ).system
    image = made.continuous("image")
    assert (type(image.connector).__name__, image.connector.depth, image.encoder.layers) == ("Mlp", 3, 5)
    assert isinstance(made.backbone, Llama) and (made.backbone.dim, made.backbone.layers) == (64, 2)
    assert (made.prompt.header, made.prompt.stop, made.prompt.user) == ("A:", ("</s>", "!"), SYSTEM.prompt.user)


def test_a_recipe_adds_modalities():
    made = recipe(
        "set.inputs.audio={part: Continuous, encoder: {part: MelConvNet}, connector: {part: Mlp}, "
        "views: {part: Windows}, fusion: {part: Splice}}",
        "set.inputs.audio.connector.depth=1",
        "set.outputs.image={part: Codes, weight: 0.1, codec: {part: VqGan, image: 64}, "
        "span: {part: CodeSpan, token: '<{code}>', begin: '<image>', end: '</image>'}}",
        "set.prompt.media.audio='{media}'",
        "set.prompt.answered={image: '{media}'}",
    ).system
    assert (made.input_type, made.output_type) == ("A", 3)
    assert list(made.inputs) == ["image", "audio"]
    audio = made.continuous("audio")
    assert (type(audio.encoder).__name__, audio.connector.depth) == ("MelConvNet", 1)
    assert made.coded("image").span.name(7) == "<7>"
    assert made.loss_weights == {"text": 1.0, "image": 0.1}
    assert list(made.parts())[:6] == [
        "image.encoder", "audio.encoder", "image.connector", "image.fusion", "audio.connector", "audio.fusion",
    ]  # fmt: skip


@pytest.mark.parametrize("change", [compose, System.but])
def test_changes_are_made_at_once_so_that_only_the_result_must_be_possible(change: Callable[..., System]):
    paths = {"backbone.heads": 6, "backbone.kv_heads": 3}  # 3 key-value heads do not fit the 4 heads there were
    system = SYSTEM.shrunk("tiny").but({"backbone.dim": 48})
    with pytest.raises(SpecError):
        change(system, {"backbone.kv_heads": 3})
    for order in (paths, dict(reversed(paths.items()))):
        backbone = change(system, order).backbone
        assert isinstance(backbone, Llama) and (backbone.heads, backbone.kv_heads) == (6, 3)


def test_what_replaces_a_part_comes_before_what_changes_it():
    other = Llama(dim=64, layers=1, heads=2, kv_heads=1, mlp_dim=96, vocab=300, context=256)
    system = SYSTEM.but({"backbone.layers": 3, "backbone": other, "inputs": {"image": SYSTEM.inputs["image"]}})
    assert system.backbone == other.but(layers=3)
    assert system.but(backbone={"layers": 4}, title="Mine").backbone == other.but(layers=4)
    both = system.but({"published_params": {"total": 1}, "published_params.backbone": 2}).published_params
    assert dict(both) == {"total": 1, "backbone": 2}
    with pytest.raises(UnknownName, match=r"no entry of inputs named 'imag'; did you mean 'image'"):
        compose(system, {"inputs.imag": {"part": "Mlp"}})


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("backbone.layer", r"no entry of backbone named 'layer'; did you mean 'layers'"),
        ("titel", r"no entry of System named 'titel'; did you mean 'title'"),
        ("stages.finetun.batch", r"no entry of stages named 'finetun'; did you mean 'finetune'"),
        ("slug.length", r"slug is 'llava-1.5', which has no entries of its own to change"),
    ],
)
def test_changes_of_what_is_not_there_are_refused(path: str, error: str):
    with pytest.raises((UnknownName, SpecError), match=error):
        SYSTEM.but({path: 3})


def test_yaml_numbers_and_keys(tmp_path: Path):
    assert parse_yaml("[1e-3, 1.e4, -2E5, .5e1, 1.0e-3, 3, e3]", "x") == [1e-3, 1e4, -2e5, 5.0, 1e-3, 3, "e3"]
    for text, error in (("a: 1\na: 2", "'a' is given twice"), ("a: [", "not YAML"), ("- 1", "a recipe is a mapping")):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(RecipeError, match=error) as caught:
            read_yaml(tmp_path / "r.yaml")
        assert "r.yaml" in str(caught.value)
    with pytest.raises(RecipeError, match=r"nothing.yaml: cannot be read"):
        load_recipe(tmp_path / "nothing.yaml")


def test_recipes_are_read_without_torch():
    code = (
        "import sys; from omniform.training.recipe import load_recipe; "
        f"load_recipe({str(RECIPES / 'nano.yaml')!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
