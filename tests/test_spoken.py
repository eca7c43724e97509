"""Spoken data: what is said, that splits share nothing, that it is made once and always the same; word error rate."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from omniform.data import phrases
from omniform.data.dataset import DataError
from omniform.data.datasets import open_dataset
from omniform.data.document import Media, Text
from omniform.data.espeak import RATE, TAIL, coloured, heard, version
from omniform.data.made import made
from omniform.data.sound import samples_of
from omniform.data.spoken import QUESTION, Spoken
from omniform.evaluation.metrics import Score, metric
from omniform.geometry import MediaSize
from omniform.index import UnknownName
from omniform.training.recipe import load_recipe

STAND_IN = f"""#!{sys.executable} -S
import sys, struct, math
words = sys.argv[1:]
if "--version" in words:
    print("eSpeak NG text-to-speech: 9.9")
    sys.exit()
if "dumb" in words[1]:
    sys.exit("no such voice")
count = 2205 * len(words[-1].split())
body = b"".join(struct.pack("<h", int(9000 * math.sin(i * (0.1 + int(words[5]) / 1e4)))) for i in range(count))
form = struct.pack("<HHIIHH", 1, 1, 22050, 44100, 2, 16)
chunks = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(body)) + body
open(words[words.index("-w") + 1], "wb").write(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
with open({{log!r}}, "a") as log:
    print(*words[:6], words[-1], file=log)
"""
"""A program in espeak-ng's place: a tenth of a second of one tone for each word."""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that tells how espeak-ng's stand-in was called."""
    log = tmp_path / "log"
    program = tmp_path / "bin" / "espeak-ng"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(log=str(log)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("OMNIFORM_CACHE", str(tmp_path / "cache"))
    version.cache_clear()
    yield log
    version.cache_clear()


# --- what is said ------------------------------------------------------------------------------------------------


def test_speakers_and_their_relatives_are_in_one_split() -> None:
    train, test = (phrases.SPEAKERS[s] for s in ("train", "test"))
    assert (len(set(train)), len(set(test))) == (len(train), len(test)) == (58, 20)
    family = {name.rstrip("0123456789").lower() for name in test}
    assert not family & {name.rstrip("0123456789").lower() for name in train}
    assert (len(phrases.voices("train")), len(phrases.voices("test"))) == (464, 160)
    assert phrases.voices("test")[1] == "en-gb+Andrea"


def test_long_strings_of_digits_are_in_one_split() -> None:
    random = np.random.default_rng(0)
    said = {split: {phrases.digits(random, split, (1, 2, 3, 4)) for _ in range(3000)} for split in ("train", "test")}
    both = said["train"] & said["test"]
    assert both and max(len(words.split()) for words in both) == 2
    shares = [phrases.split_of(f"{a} {b} {c}") for a in phrases.DIGITS for b in phrases.DIGITS for c in phrases.DIGITS]
    assert Counter(shares) == {"train": 812, "test": 188}


def test_commands_come_by_how_much_there_is_to_choose() -> None:
    random = np.random.default_rng(0)
    first = Counter(phrases.command(random).split()[0] for _ in range(3000))
    assert set(first) == {"turn", "set", "play", "open", "close", "volume", "go", "call", "stop", "what", "thank"}
    assert 380 < first["turn"] < 500 and 270 < first["play"] < 380
    assert len({phrases.command(random) for _ in range(3000)}) == 24 + 32 + 3 + 6 + 2 + 5 + 3 + 3


def test_utterances_are_a_function_of_the_seed(stand_in: Path) -> None:
    first, second = (list(Spoken("train", limit=6, seed=s).utterances()) for s in (3, 3))
    assert first == second != list(Spoken("train", limit=6, seed=4).utterances())
    assert first == list(Spoken("train", limit=9, seed=3).utterances())[:6]
    assert [u.kind for u in first] == ["digits", "command"] * 3
    assert all(140 <= u.speed < 220 and 20 <= u.pitch < 80 and u.voice in phrases.voices("train") for u in first)


# --- noise -------------------------------------------------------------------------------------------------------


def test_noise_is_weaker_by_what_was_asked() -> None:
    random = np.random.default_rng(1)
    speech = np.sin(np.arange(RATE) / 3).astype(np.float32)
    said = phrases.Utterance(
        words="one", kind="digits", voice="", speed=1, pitch=1, noise=10.0, loudness=0.5, lead=0.25
    )
    wave = heard(speech, said, random)
    assert (len(wave), wave.dtype, np.abs(wave).max()) == (int((1.25 + TAIL) * RATE), np.float32, pytest.approx(0.5))
    before, during = (float(np.mean(part.astype(float) ** 2)) for part in (wave[:4000], wave[4000:20000]))
    assert 10 * np.log10((during - before) / before) == pytest.approx(10.0, abs=0.5)
    quiet = heard(speech, phrases.Utterance(**{**vars(said), "noise": None}), random)
    assert not quiet[:4000].any()
    assert said.type == "digits, 10 dB"


def test_coloured_noise_falls_with_frequency() -> None:
    noise = coloured(1 << 14, 0.5, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert np.mean(noise**2) == pytest.approx(1.0)
    assert power[500:1000].mean() / power[4000:8000].mean() == pytest.approx(8.0, rel=0.1)


# --- made once ---------------------------------------------------------------------------------------------------


def test_recordings_are_made_once(stand_in: Path) -> None:
    data = open_dataset({"kind": "spoken", "split": "train", "limit": 4})
    calls = stand_in.read_text().splitlines()
    said = list(Spoken("train", limit=4).utterances())
    assert sorted(calls) == sorted(f"-v {u.voice} -s {u.speed} -p {u.pitch} {u.words}" for u in said)
    again = open_dataset({"kind": "spoken", "split": "train", "limit": 4})
    assert [again[i] for i in range(4)] == [data[i] for i in range(4)]
    media, question, answer = data[1].segments
    assert (question, answer) == (Text(QUESTION), Text(said[1].words, "assistant"))
    assert data[1].info["type"] == said[1].type and data.group(1) == 1
    assert isinstance(media, Media) and Path(str(media.source)).parent.name.startswith("spoken-")
    samples, rate = samples_of(media)
    tenths = len(said[1].words.split())
    assert (rate, samples.shape[1]) == (16000, 1)
    assert len(samples) / rate == pytest.approx(said[1].lead + TAIL + tenths / 10, abs=0.002)
    assert np.abs(samples).max() == pytest.approx(said[1].loudness, abs=1e-4)
    assert len(stand_in.read_text().splitlines()) == 4


def test_the_other_way_round_uses_the_same_recordings(stand_in: Path) -> None:
    heard_, said = (Spoken("test", form=f, limit=2, content="digits", voices=["en-us"]) for f in ("hear", "say"))
    text, media = said[0].segments
    assert text == Text(f"say {heard_[0].info['answer']}")
    assert isinstance(media, Media) and (media.role, media.source) == ("assistant", heard_[0].media[0].source)
    steady = list(Spoken("test", limit=5, steady=True, noise=[None], lengths=[2]).utterances())
    assert {(u.speed, u.pitch, u.loudness, u.noise) for u in steady} == {(170, 50, 0.6, None)}
    assert {len(u.words.split()) for u in steady if u.kind == "digits"} == {2}


def test_what_cannot_be_made_leaves_nothing(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"espeak-ng -v dumb .* fails: no such voice"):
        Spoken("train", limit=1, voices=["dumb"])
    cache = stand_in.parent / "cache"
    assert list(cache.iterdir()) == []
    monkeypatch.setenv("PATH", str(cache))
    version.cache_clear()
    with pytest.raises(DataError, match=r"apt-get install espeak-ng"):
        Spoken("train", limit=1)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"split": "tests"}, "did you mean 'test'"),
        ({"form": "hears"}, "did you mean 'hear'"),
        ({"content": "numbers"}, "known: all, commands, digits"),
        ({"limit": 0}, "at least 1 recording"),
        ({"noise": ()}, "one noise"),
        ({"lengths": (5,)}, "lengths from 1 to 4 digits"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, object], error: str) -> None:
    with pytest.raises((DataError, UnknownName), match=error):
        Spoken(**{"split": "train", **given})  # type: ignore[arg-type]


def test_made_data_say_what_they_are_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMNIFORM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls: list[Path] = []
    folders = [made("x", {"b": 1, "a": n}, calls.append) for n in (1, 2, 1)]
    assert folders[0] == folders[2] != folders[1] and len(calls) == 2
    assert folders[0].parent == tmp_path / "omniform"
    assert (folders[0] / "made.json").read_text() == '{"a": 1, "b": 1}\n'


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="needs the program espeak-ng (apt-get install espeak-ng)")
def test_espeak_says_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name in ("one", "two"):
        monkeypatch.setenv("OMNIFORM_CACHE", str(tmp_path / name))
        data = Spoken("test", limit=3)
        found.append([Path(str(data[i].media[0].source)).read_bytes() for i in range(3)])
    assert found[0] == found[1]
    seconds = [len(wave) / 2 / RATE for wave in found[0]]
    assert all(0.3 < s < 3.2 for s in seconds) and len(set(found[0])) == 3


# --- word error rate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "answer", "errors", "words"),
    [
        ("one two three", "one two three", 0, 3),
        ("One two three.", "one two three", 0, 3),
        ("one three", "one two three", 1, 3),
        ("one two two three", "one two three", 1, 3),
        ("one five three", "one two three", 1, 3),
        ("", "one two", 2, 2),
        ("a b c d", "stop", 4, 1),
        ("two one", "one two", 2, 2),
    ],
)
def test_word_error_rate(prediction: str, answer: str, errors: int, words: int) -> None:
    score = metric("word_error_rate")(prediction, answer)
    assert (score.earned, score.possible, score.full) == (errors, words, errors == 0)


def test_rates_add_up_over_words() -> None:
    score = metric("word_error_rate")
    total = sum((score("one", "one two"), score("stop now", "stop")), Score(0.0, 0.0))
    assert total == Score(2.0, 3.0, True) and not total.full and total.ratio == 2 / 3
    with pytest.raises(DataError, match="holds no words"):
        score("one", " . ")


def test_the_recipe_that_hears_is_whole() -> None:
    path = Path(__file__).parents[1] / "recipes" / "hear.yaml"
    recipe = load_recipe(path)
    assert (recipe.system.input_type, recipe.system.output_type) == ("A", 1)
    assert recipe.system.plan("audio", MediaSize(samples=20000, rate=16000)).positions == 40
    assert [stage.data for stage in recipe.stages] == ["single", "train"]
    assert recipe.data["test"][0]["split"] == "test" and recipe.evaluate["metric"] == "word_error_rate"
