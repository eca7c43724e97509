"""Boxes and points as words and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omniform.data import coordinates
from omniform.geometry import MediaSize
from omniform.prompt import Places

SIZE = MediaSize(width=640, height=480)
SQUARE = Places(square=True)
BOX, POINT = (10.0, 20.0, 300.0, 400.0), (100.0, 50.0)


def test_fractions_of_the_padded_square() -> None:
    assert coordinates.moved(BOX, SIZE, SQUARE) == (10.0, 100.0, 300.0, 480.0)
    assert coordinates.fractions(BOX, SIZE, SQUARE) == (10 / 640, 100 / 640, 300 / 640, 480 / 640)
    assert coordinates.fractions(POINT, SIZE, SQUARE) == (100 / 640, 130 / 640)
    assert coordinates.moved((1.0, 1.0), MediaSize(width=200, height=501), SQUARE) == (151.0, 1.0)  # the odd pixel


def test_fractions_of_the_picture_itself() -> None:
    assert coordinates.fractions(BOX, SIZE, Places()) == (10 / 640, 20 / 480, 300 / 640, 400 / 480)
    assert coordinates.fractions((-5.0, 999.0), SIZE, Places()) == (0.0, 1.0)


@pytest.mark.parametrize("form", [SQUARE, Places(decimals=6)])
def test_pixels_come_back(form: Places) -> None:
    assert coordinates.pixels(coordinates.fractions(BOX, SIZE, form), SIZE, form) == pytest.approx(BOX)


def test_words_and_back() -> None:
    words = coordinates.write([BOX, (0.0, 0.0, 640.0, 480.0)], SIZE, SQUARE)
    assert words == "[0.016,0.156,0.469,0.750;0.000,0.125,1.000,0.875]"
    assert coordinates.read(f"a cat {words} and [0.1,0.2] x", SQUARE) == [
        [(0.016, 0.156, 0.469, 0.75), (0.0, 0.125, 1.0, 0.875)]
    ]
    assert coordinates.read(f"{words} [0.1,0.2;0.3,1]", SQUARE, 2) == [[(0.1, 0.2), (0.3, 1.0)]]
    other = replace(SQUARE, opening="(", closing=")", between=" ", among="|", decimals=1)
    assert coordinates.write([POINT, POINT], SIZE, other) == "(0.2 0.2|0.2 0.2)"
    assert coordinates.read("(0.2 0.2|0.2 0.2)", other, 2) == [[(0.2, 0.2), (0.2, 0.2)]]


def test_thousandths_and_back() -> None:
    form = Places(whole=3, opening="[[", closing="]]")
    words = coordinates.write([BOX, (0.0, 0.0, 640.0, 480.0)], SIZE, form)
    assert words == "[[015,041,468,833;000,000,999,999]]"
    assert coordinates.read(f"a cat {words} and [[1,2,3,4]]", form) == [
        [(0.015, 0.041, 0.468, 0.833), (0.0, 0.0, 0.999, 0.999)]
    ]


@pytest.mark.parametrize("text", ["[0.1,0.2,0.3]", "[0.1,0.2,0.3,0.4", "[.1,.2,.3,.4]", "[12.5,0.2,0.3,0.4]", ""])
def test_what_is_no_box_is_not_read(text: str) -> None:
    assert coordinates.read(text, SQUARE) == []
