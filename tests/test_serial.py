"""A system survives JSON exactly; what a file says wrong is answered in one sentence."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from omniform import index, serial
from omniform.connectors.mlp import Mlp
from omniform.serial import SerialError, dumps, fits, loads
from omniform.spec import Undisclosed


@dataclass(frozen=True, kw_only=True)
class OwnMlp(Mlp):
    """A part that the library does not know."""

    bias: bool = True


def system():
    return index.system("llava-1.5")


@pytest.mark.parametrize("size", ["full", "tiny", "nano"])
@pytest.mark.parametrize("slug", index.names("systems"))
def test_round_trip(slug, size):
    whole = index.system(slug)
    before = whole if size == "full" else whole.shrunk(size)
    after = loads(dumps(before))
    assert after == before
    assert dumps(after) == dumps(before)
    assert (after.input_type, after.output_type) == (before.input_type, before.output_type)


def test_a_composed_system_comes_back(tmp_path):
    composed = system().but(
        {
            "slug": "mine",
            "backbone.layers": 5,
            "stages.pretrain.batch": Undisclosed("never said"),
            "inputs.image.connector": Mlp(depth=3),
        }
    )
    serial.save(composed, tmp_path / "system.json")
    after = serial.load(tmp_path / "system.json")
    assert after == composed
    assert after.stages[0].batch == Undisclosed("never said")
    assert after.continuous("image").connector.depth == 3


def test_every_field_is_written():
    body = json.loads(dumps(system()))
    assert (body["format"], body["version"]) == ("omniform-system", 1)
    assert body["system"]["backbone"]["tied"] is False  # a default, spelt out


def test_a_part_of_ones_own_is_handed_in():
    mine = system().but({"inputs.image.connector": OwnMlp(depth=2, bias=False)})
    assert loads(dumps(mine), parts=(OwnMlp,)) == mine
    with pytest.raises(SerialError, match=r"no class named 'OwnMlp'; did you mean 'Mlp'.*parts=\(OwnMlp,\)"):
        loads(dumps(mine))


CHANGES = [
    ('"Mlp"', '"Mlpx"', "no class named 'Mlpx'; did you mean 'Mlp'"),
    ('"depth": 2', '"dept": 2', r"\(at system.inputs.image.connector\) named 'dept'; did you mean 'depth'"),
    ('"depth": 2', '"depth": "two"', "system.inputs.image.connector.depth must be int, got 'two'"),
    ('"depth": 2', '"depth": true', "system.inputs.image.connector.depth must be int, got True"),
    ('"version": 1', '"version": 2', "format version 2, this omniform reads version 1"),
    ('"layers": 32,', "", "system.backbone lacks layers, which a Llama needs"),
    ('"omniform-system"', '"other"', "does not describe a system"),
    ('"crop"', '"chop"', "'squash', 'crop', 'pad'"),
    ('"image.connector"', '"image.conector"', "did you mean 'image.connector'"),
    ('"feature_layer": -2', '"feature_layer": -99', "feature_layer -99 of 24 layers"),
    ("{", "", "is not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), CHANGES)
def test_a_wrong_file_is_explained(old, new, message):
    text = dumps(system())
    assert old in text
    with pytest.raises(SerialError, match=message) as caught:
        loads(text.replace(old, new, 1), "a/system.json")
    assert str(caught.value).startswith("a/system.json")
    assert "\n" not in str(caught.value)


def test_what_is_no_system_is_refused():
    body = json.loads(dumps(system()))
    for inner in (None, 3, [], {}, body["system"]["prompt"]):
        with pytest.raises(SerialError, match="not a System"):
            loads(json.dumps({**body, "system": inner}))
    with pytest.raises(SerialError, match="is not JSON"):
        loads("[" * 100_000)
    with pytest.raises(SerialError, match=r"mine.inputs.image.connector.depth: .* is not data"):
        dumps(system().but({"slug": "mine", "inputs.image.connector": Mlp(depth=2j)}))


def test_types_are_checked():
    assert fits(3, float) and not fits(True, float) and not fits(3.5, int)
    assert fits((1, 2, 3), tuple[int, ...]) and not fits((1, 2), tuple[int, int, int])
    assert fits(None, int | None) and not fits("x", int | None)


def test_needs_no_torch():
    code = "import sys, omniform.serial; print('torch' in sys.modules, 'transformers' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]
