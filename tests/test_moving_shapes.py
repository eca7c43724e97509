"""Moving shapes: clips show what their answers say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from omniform.data.dataset import DataError
from omniform.data.datasets import open_dataset
from omniform.data.document import Media
from omniform.data.media import size_of
from omniform.data.moving_shapes import CLIPS, PAINT, SHAPES, WAYS, Clip, MovingShapes, outline
from omniform.index import UnknownName


def centre(picture: Image.Image, ground: tuple[int, int, int]) -> tuple[float, float]:
    """Mean (x, y) of what is not ground."""
    away = np.abs(np.asarray(picture).astype(int) - ground).sum(-1) > 60
    y, x = np.nonzero(away)
    return float(x.mean()), float(y.mean())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", WAYS)
def test_shapes_move_as_they_say(shape: str, way: str) -> None:
    clip = Clip(shape, "blue", way, (32.0, 32.0), 14.0, 9.0, 0.3, (250, 250, 250))
    frames = clip.frames()
    first, last = centre(frames[0], clip.ground), centre(frames[-1], clip.ground)
    step = [b - a for a, b in zip(first, last, strict=True)]
    assert step == pytest.approx([14.0 * s for s in WAYS[way]], abs=0.3)
    assert (len(frames), {f.size for f in frames}) == (8, {(64, 64)})
    assert frames[3].getpixel(tuple(map(round, centre(frames[3], clip.ground)))) == PAINT["blue"]


def test_outlines() -> None:
    assert [len(outline(s, 1.0, 0.0)) for s in SHAPES] == [48, 3, 4]
    corners = outline("rectangle", 10.0, 0.7)
    sides = [np.hypot(*(np.subtract(corners[i - 1], corners[i]))) for i in range(4)]
    assert sides[0] == pytest.approx(sides[2]) and sides[1] == pytest.approx(sides[3])
    assert sides[0] ** 2 + sides[1] ** 2 == pytest.approx(400.0)


def test_questions_and_answers() -> None:
    data = open_dataset({"kind": "moving-shapes", "split": "train", "limit": 200})
    assert len(data) == 1000 and data.group(4) == 0 and data.group(5) == 1
    kinds = Counter(str(data[i].info["type"]) for i in range(1000))
    assert kinds == dict.fromkeys(("direction", "colour", "shape", "yes/no: direction", "yes/no: colour"), 200)
    media = data[0].segments[0]
    assert isinstance(media, Media) and data[4].segments[0] is media
    assert (size_of(media).frames, size_of(media).hw) == (8, (64, 64))
    said = Counter(str(data[i].info["answer"]) for i in range(1000))
    assert all(30 < said[way] < 75 for way in WAYS)
    assert 160 < said["yes"] < 240 and said["yes"] + said["no"] == 400


def test_clips_stay_inside_and_are_always_the_same() -> None:
    first, second = MovingShapes("test", limit=30), MovingShapes("test", limit=30)
    keys = [first[i].media[0].key for i in range(0, 150, 5)]
    assert keys == [second[i].media[0].key for i in range(0, 150, 5)]
    assert len(set(keys)) == 30
    assert (
        keys[0]
        != MovingShapes("train", limit=1)[0].media[0].key
        != MovingShapes("test", limit=1, seed=1)[0].media[0].key
    )
    for number in range(0, 150, 5):
        for frame in first[number].media[0].source:
            edge = np.asarray(frame)
            rim = np.concatenate([edge[0], edge[-1], edge[:, 0], edge[:, -1]])
            assert (rim == rim[0]).all()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        MovingShapes("trian")
    with pytest.raises(UnknownName, match="did you mean 'captions'"):
        MovingShapes("test", form="caption")
    with pytest.raises(DataError, match="at least 1 clip"):
        MovingShapes("test", limit=0)


def test_captions_say_what_questions_ask() -> None:
    told, other = MovingShapes("train", limit=3, form="captions"), MovingShapes("train", limit=1)
    answers = [str(other[i].info["answer"]) for i in range(3)]
    assert told[0].segments[1].text == f"a {answers[1]} {answers[2]} that moves {answers[0]}"  # type: ignore[union-attr]
    assert told[0].media[0].key == other[0].media[0].key
    assert (len(told), told.group(2), told[2].id) == (3, 2, "moving-shapes/train/2")


def test_the_caption_and_the_questions_of_a_clip_share_it() -> None:
    data, asked = MovingShapes("train", limit=2, form="both"), MovingShapes("train", limit=2)
    assert [data[n].id for n in range(6)] == [*(asked[n].id for n in range(5)), "moving-shapes/train/0"]
    assert len(data) == 12 and [data.group(n) for n in (0, 5, 6)] == [0, 0, 1]
    assert all(data[n].media[0] is data[0].media[0] for n in range(6))
    assert data[11].media[0].key == asked[5].media[0].key, "the second clip of both"
    told = data[11].segments[1]
    assert told.text.split()[-1] == asked[5].info["answer"]  # type: ignore[union-attr]


def test_splits_are_of_a_fixed_size() -> None:
    assert dict(CLIPS) == {"train": 8000, "test": 1000}
    held_out = MovingShapes("test")
    assert len(held_out) == len(MovingShapes("test", limit=2000)) == 5000
