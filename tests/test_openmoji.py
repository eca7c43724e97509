"""OpenMoji as a dataset: names, families, splits, and pictures that come out the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageStat

from omniform.data.altered import altered
from omniform.data.dataset import DataError
from omniform.data.datasets import open_dataset
from omniform.data.document import Media, Text
from omniform.data.emoji import family, groups, kinds, named
from omniform.data.openmoji import QUESTION, OpenMoji, caption_of, group_of, split_of
from omniform.evaluation.evaluate import true_answer
from omniform.index import UnknownName


@pytest.mark.parametrize(
    ("emoji", "name"),
    [
        ("😀", "grinning face"),
        ("👩🏿‍🚀", "woman, dark skin tone, rocket"),
        ("1️⃣", "digit one, keycap"),
        ("🇩🇪", "flag d e"),
        ("🏴󠁧󠁢󠁥󠁮󠁧󠁿", "waving black flag, g b e n g"),
        ("👩‍🦰", "woman, red hair"),
    ],
)
def test_names_of_sequences_are_composed(emoji: str, name: str) -> None:
    assert named(emoji) == name


@pytest.mark.parametrize(
    ("members", "shared"),
    [
        (("👋", "👋🏻", "👋🏿"), "👋"),
        (("🧑‍🚀", "👨‍🚀", "👩🏽‍🚀"), "🧑🚀"),
        (("🏃", "🏃‍♀️", "🏃🏽‍♂️‍➡️"), "🏃"),
        (("👪", "👨‍👩‍👧", "👩‍👦‍👦", "🧑‍🧑‍🧒"), "👪"),
        (("💑", "👩🏻‍❤️‍👨🏼"), "💑"),
        (("🤝", "🫱🏻‍🫲🏿"), "🤝"),
        (("🤴", "👸🏾"), "🤴"),
        (("👦", "👧", "🧒🏿"), "🧒"),
    ],
)
def test_variants_are_one_family(members: tuple[str, ...], shared: str) -> None:
    assert {family(member) for member in members} == {shared}


def test_different_emoji_are_different_families() -> None:
    assert len({family(e) for e in ("👩‍🦰", "👩", "👩‍🚀", "❤️‍🔥", "❤️", "🇩🇪", "🇩🇰", "1️⃣", "2️⃣")}) == 9


def test_table_holds_unicode_groups() -> None:
    assert len(kinds()) == 1660
    assert groups() == (
        "smileys & emotion", "people & body", "animals & nature", "food & drink", "travel & places", "activities",
        "objects", "symbols", "flags",
    )  # fmt: skip
    assert all(family(key) == key for key in kinds())


def test_splits_share_no_family(tmp_path: Path) -> None:
    train, test = (OpenMoji(split, cache=str(tmp_path)) for split in ("train", "test"))
    assert (len(train), len(test)) == (3309, 525)
    sides = [{family(e) for e in dataset._emoji} for dataset in (train, test)]
    assert sides[0] & sides[1] == set()
    assert sides[0] | sides[1] == set(kinds())
    assert not list(tmp_path.iterdir()), "nothing is drawn before it is asked for"
    assert split_of("👋🏻") == split_of("👋🏿")


def test_without_variants_one_of_each_family(tmp_path: Path) -> None:
    both = [OpenMoji(split, variants=False, cache=str(tmp_path)) for split in ("train", "test")]
    assert [len(dataset) for dataset in both] == [1445, 215]
    kept = {e for dataset in both for e in dataset._emoji}
    assert {"👋", "💁", "👨‍🚀"} <= kept
    assert "👋🏻" not in kept


def test_pictures_are_drawn_once_and_the_same(tmp_path: Path) -> None:
    one, other = (OpenMoji("train", limit=3, cache=str(tmp_path / name))[0] for name in "ab")
    first, second = (Path(str(document.media[0].source)) for document in (one, other))
    assert first.read_bytes() == second.read_bytes()
    written = first.stat().st_mtime_ns
    assert OpenMoji("train", limit=1, cache=str(tmp_path / "a"))[0].media[0].key == one.media[0].key
    assert first.stat().st_mtime_ns == written
    assert [p.suffix for p in first.parent.iterdir()] == [".png"]


def test_pictures_stand_on_white(tmp_path: Path) -> None:
    dataset = OpenMoji("train", cache=str(tmp_path))
    picture = Image.open(dataset._drawings.picture("😀")).convert("RGB")
    assert picture.size == (64, 64)
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((32, 20)) == (252, 234, 43), "OpenMoji's yellow"
    assert [round(band) for band in ImageStat.Stat(picture).mean] == [227, 222, 179]


def test_forms_are_opposite(tmp_path: Path) -> None:
    options = {"kind": "openmoji", "split": "test", "limit": 2, "side": 16, "cache": str(tmp_path)}
    told, drawn = open_dataset({**options, "form": "captions"})[1], open_dataset({**options, "form": "draw"})[1]
    picture, caption = told.segments
    assert isinstance(picture, Media)
    assert isinstance(caption, Text)
    assert (picture.role, caption.role) == ("user", "assistant")
    assert [type(s) for s in drawn.segments] == [Text, Media]
    assert [s.role for s in drawn.segments] == ["user", "assistant"]
    assert drawn.segments[0].text == caption.text == caption_of(str(told.info["emoji"]))
    assert told.info["group"] == told.info["type"] == group_of(caption.text)
    assert told.id == drawn.id
    assert true_answer(drawn) == true_answer(told) == caption.text
    asked = open_dataset({**options, "form": "groups"})[1]
    assert asked.segments == (picture, Text(QUESTION), Text(str(told.info["group"]), "assistant"))


def test_altered_pictures_show_the_same_otherwise(tmp_path: Path) -> None:
    one, other = (OpenMoji("train", limit=3, altered=2, cache=str(tmp_path / name)) for name in "ab")
    assert (len(one), len({document.id for document in one})) == (9, 9)
    assert one[-1] == one[8]
    with pytest.raises(IndexError):
        one[9]
    assert [d.info["emoji"] for d in one] == [d.info["emoji"] for d in OpenMoji("train", limit=3)] * 3
    files = [[Path(str(data[i].media[0].source)).read_bytes() for i in (1, 4, 7)] for data in (one, other)]
    assert files[0] == files[1] and len(set(files[0])) == 3
    own, changed = (str(one[i].media[0].source) for i in (1, 4))
    with Image.open(own) as before, Image.open(changed) as after:
        assert (after.size, after.mode) == (before.size, "RGB")


def test_altering_keeps_the_middle_and_stands_on_white() -> None:
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste((20, 60, 200), (24, 24, 40, 40))
    for seed in range(20):
        changed = altered(picture, np.random.default_rng(seed))
        assert min(changed.getpixel((0, 63))) > 210
        dark = np.asarray(changed.convert("L")) < 140
        assert 0.7**2 * 256 < dark.sum() < 1.15**2 * 256
        rows, columns = np.nonzero(dark)
        assert abs(rows.mean() - 31.5) < 7 and abs(columns.mean() - 31.5) < 7


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"split of openmoji.*'train'"):
        OpenMoji("trian")
    with pytest.raises(UnknownName, match=r"form of openmoji.*'draw'"):
        OpenMoji("test", form="drew")
    with pytest.raises(DataError, match="altered -1; give 0"):
        OpenMoji("test", altered=-1, cache=str(tmp_path))
    with pytest.raises(DataError, match="side 4; give at least 8 pixels"):
        OpenMoji("test", side=4, cache=str(tmp_path))


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    with pytest.raises(DataError, match="package resvg_py is not installed; run `pip install"):
        OpenMoji("test", cache=str(tmp_path))
