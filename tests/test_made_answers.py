"""Sounds and clips as answers to words, for systems that write them."""

from __future__ import annotations

from typing import Any

import pytest

from omniform.data.document import Media, Text
from omniform.data.moving_shapes import MovingShapes
from omniform.data.tones import Tones
from omniform.index import UnknownName


@pytest.mark.parametrize(
    ("asked", "made", "modality", "words"),
    [
        (Tones(limit=6), Tones(limit=6, form="sounds"), "audio", "a steady low tone"),
        (MovingShapes("test", 6), MovingShapes("test", 6, form="clips"), "video", "a gray triangle that moves left"),
    ],
    ids=["tones", "clips"],
)
def test_the_medium_is_the_answer(asked: Any, made: Any, modality: str, words: str) -> None:
    assert len(made) == 6
    first, medium = made[0].segments
    assert isinstance(first, Text) and (first.role, first.text.split()[0]) == ("user", "a")
    assert len(first.text.split()) == len(words.split())
    assert isinstance(medium, Media) and (medium.modality, medium.role) == (modality, "assistant")
    assert medium.key == asked[0].media[0].key or modality == "video"  # questions draw on the same chance
    assert [made.group(n) for n in range(6)] == list(range(6))
    assert made[0].captions == [first.text]


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(UnknownName, match="no form of tones named 'sound'; did you mean 'sounds'"):
        Tones(form="sound")
    with pytest.raises(UnknownName, match="no form of moving-shapes named 'clip'; did you mean 'clips'"):
        MovingShapes("test", form="clip")
