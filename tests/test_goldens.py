"""Every golden in this repository is reproduced; a deviation is told and counted."""

import json
import math
from pathlib import Path

import pytest
import torch
from goldens import compare, runner
from goldens.__main__ import main
from goldens.golden import HERE, load
from safetensors.torch import save_file

GOLDENS = sorted(p for p in HERE.glob("*__*") if p.suffix in (".json", ".safetensors"))
WHOLE = HERE / "llava-1.5__batch_padded.safetensors"
LABELS = HERE / "llava-1.5__labels.json"


@pytest.mark.parametrize("path", GOLDENS, ids=lambda p: p.name)
def test_golden(path):
    lines = runner.check(path)
    assert lines
    assert [str(line) for line in lines if not line.passed] == []


def rewritten(tmp_path, change, name="llava-1.5__changed.safetensors"):
    """A golden outside the repository, changed."""
    golden = load(WHOLE)
    groups = {"param.": golden.own_params, "in.": golden.inputs, "out.": golden.expected}
    tensors = {prefix + key: t.clone() for prefix, group in groups.items() for key, t in group.items()}
    meta = dict(golden.meta)
    change(tensors, meta)
    save_file(tensors, tmp_path / name, metadata=meta)
    return tmp_path / name


def failing(path):
    return {line.name for line in runner.check(path) if not line.passed}


def test_a_deviation_fails_where_it_is(tmp_path, capsys):
    def off(tensors, meta):
        tensors["out.logits"][0, 3, 5] += 2e-4 * tensors["out.logits"].abs().max()
        tensors["out.labels"][1, 2] += 1

    path = rewritten(tmp_path, off)
    assert failing(path) == {"out.logits", "out.labels"}
    assert main([str(WHOLE), str(path)]) == 1
    out = capsys.readouterr().out
    assert out.count("FAIL") == 2 and out.count("PASS") == 12 and "2.00e-04  out.logits" in out
    assert main([str(WHOLE)]) == 0


def test_padding_is_not_compared(tmp_path):
    def off(tensors, meta):
        row = int(tensors["out.attention_mask"][:, -1].argmin())
        assert tensors["out.attention_mask"][row, -1] == 0
        tensors["out.logits"][row, -1] = 99.0

    assert failing(rewritten(tmp_path, off)) == set()


def test_weights_go_through_the_release_layout(tmp_path, capsys):
    def renamed(tensors, meta):
        tensors["param.model.mm_projector.1.weight"] = tensors.pop("param.model.mm_projector.0.weight")

    assert main([str(rewritten(tmp_path, renamed))]) == 1
    out = capsys.readouterr().out
    assert "1 missing: model.mm_projector.0.weight; 1 left over: model.mm_projector.1.weight" in out


def test_a_file_without_weights_takes_its_siblings(tmp_path):
    def bare(tensors, meta):
        for key in [k for k in tensors if k.startswith("param.")]:
            del tensors[key]
        meta["notes"] = "same weights as batch_padded"

    path = rewritten(tmp_path, bare)
    assert not load(path).own_params and len(load(path).params) == 80
    assert failing(path) == set()


def test_left_padding(tmp_path):
    """Padding on the left moves nothing but the places."""

    def turned(tensors, meta):
        frame = tensors["out.attention_mask"].clone()
        turned_in = tensors["in.attention_mask"].clone()
        for name, mask in [(n, turned_in) for n in ("in.input_ids", "in.attention_mask", "in.labels")] + [
            (n, frame) for n in ("out.attention_mask", "out.labels", "out.logits", "out.inputs_embeds")
        ]:
            rows = zip(tensors[name], mask, strict=True)
            tensors[name] = torch.stack([row.roll(int((m == 0).sum()), 0) for row, m in rows])

    assert failing(rewritten(tmp_path, turned)) == set()


def test_json_goldens_outside_the_repository(tmp_path, capsys):
    data = json.loads(LABELS.read_text())
    data["v1"][1]["labels"][-1] = 7
    path = tmp_path / "llava-1.5__labels_elsewhere.json"
    path.write_text(json.dumps(data))
    assert failing(path) == {"v1/1, 3 values"}
    assert main([str(path)]) == 1
    assert "FAIL        inf  v1/1, 3 values  (v1/1/labels" in capsys.readouterr().out


def test_what_nothing_computes_fails(tmp_path, capsys):
    def more(tensors, meta):
        tensors["out.something"] = torch.ones(2)

    assert failing(rewritten(tmp_path, more)) == {"out.something"}
    data = {**json.loads(LABELS.read_text()), "v9": [{"input_ids": [1]}]}
    (tmp_path / "llava-1.5__more.json").write_text(json.dumps(data))
    assert failing(tmp_path / "llava-1.5__more.json") == {"v9/0"}
    (tmp_path / "nosuch__case.json").write_text("{}")
    assert main([str(tmp_path / "nosuch__case.json"), str(tmp_path / "gone__x.json")]) == 1
    assert "no adapter for nosuch: write tests/goldens/adapters/nosuch.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("got", "wanted", "error"),
    [
        (1, 1, 0.0),
        (2, 1, math.inf),
        (1.0001, 1.0, 1e-4),
        ([0.0, 10.01], [0.0, 10.0], 1e-3),
        ([1, 2], [1, 2, 3], math.inf),
        ([1.0, math.nan], [1.0, 2.0], math.inf),
        ({"a": [1, 2]}, {"a": [1, 2]}, 0.0),
        ({"a": 1}, {"a": 1, "b": 2}, math.inf),
        (True, 1, 0.0),
        ("x", "y", math.inf),
    ],
)
def test_errors_of_values(got, wanted, error):
    assert compare.value_error(got, wanted)[0] == pytest.approx(error, rel=1e-6)


def test_errors_of_tensors():
    wanted = torch.tensor([[1.0, -4.0], [2.0, 3.0]])
    assert compare.tensor_line("x", wanted + 4e-4, wanted).error == pytest.approx(1e-4, rel=1e-2)
    elsewhere = wanted + torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert compare.tensor_line("x", elsewhere, wanted, torch.tensor([[1, 1], [1, 0]])).error == 0
    assert compare.tensor_line("x", elsewhere, wanted, torch.zeros(2, 2)).note.startswith("nothing is compared")
    assert compare.tensor_line("x", wanted[:1], wanted).note == "shape [1, 2], wanted [2, 2]"
    assert compare.tensor_line("x", wanted * math.nan, wanted).error == math.inf
    assert compare.tensor_line("x", torch.tensor([1, 2]), torch.tensor([1, 3])).note == "1 of 2 differ"


def test_goldens_are_found():
    assert {p.name for p in GOLDENS} >= {WHOLE.name, LABELS.name, "llava-1.5__preprocess.json"}
    assert Path(compare.__file__).parent == HERE
