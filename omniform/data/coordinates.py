"""Boxes and points of a picture as words, and back: places are pixels outside, fractions in the text.

A box is (left, top, right, bottom), a point (x, y). Shikra, arXiv:2306.15195 section 3.1
(shikras/shikra@ff79a4c mllm/dataset/utils/transform.py, mllm/dataset/process_function/box_process_function.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

from omniform.geometry import MediaSize
from omniform.prompt import Places

Place: TypeAlias = tuple[float, ...]


def moved(place: Sequence[float], size: MediaSize, form: Places) -> Place:
    """Pixels of the picture -> pixels of what fractions are taken of."""
    return tuple(value + offset for value, offset in zip(place, _axes(_offset(size, form), place), strict=True))


def fractions(place: Sequence[float], size: MediaSize, form: Places) -> Place:
    """Pixels of the picture -> fractions, kept between 0 and 1."""
    sides = _axes(_sides(size, form), place)
    return tuple(min(max(v / side, 0.0), 1.0) for v, side in zip(moved(place, size, form), sides, strict=True))


def pixels(place: Sequence[float], size: MediaSize, form: Places) -> Place:
    """Fractions -> pixels of the picture."""
    offsets, sides = _axes(_offset(size, form), place), _axes(_sides(size, form), place)
    return tuple(v * side - offset for v, side, offset in zip(place, sides, offsets, strict=True))


def write(places: Sequence[Sequence[float]], size: MediaSize, form: Places) -> str:
    """The places of one phrase, in pixels, as words."""
    texts = (form.between.join(_written(v, form) for v in fractions(p, size, form)) for p in places)
    return form.opening + form.among.join(texts) + form.closing


def read(text: str, form: Places, numbers: int = 4) -> list[list[Place]]:
    """The fractions of every group of places in a text: boxes (4 numbers) or points (2)."""
    number = rf"\d{{{form.whole}}}" if form.whole else r"\d(?:\.\d*)?"
    one = re.escape(form.between).join([number] * numbers)
    groups = re.findall(
        f"{re.escape(form.opening)}({one}(?:{re.escape(form.among)}{one})*){re.escape(form.closing)}", text
    )
    unit = 10**form.whole
    return [
        [tuple(float(n) / unit for n in p.split(form.between)) for p in group.split(form.among)] for group in groups
    ]


def _written(fraction: float, form: Places) -> str:
    """One number: a decimal fraction, or its whole parts, with zeros in front."""
    if not form.whole:
        return f"{fraction:.{form.decimals}f}"
    return f"{min(int(fraction * 10**form.whole), 10**form.whole - 1):0{form.whole}d}"


def _sides(size: MediaSize, form: Places) -> tuple[int, int]:
    longest = max(size.width, size.height)
    return (longest, longest) if form.square else (size.width, size.height)


def _offset(size: MediaSize, form: Places) -> tuple[int, int]:
    width, height = _sides(size, form)
    return (width - size.width) // 2, (height - size.height) // 2


def _axes(pair: tuple[int, int], place: Sequence[float]) -> tuple[int, ...]:
    """A value for each number of a place: those of width and height in turn."""
    return pair * (len(place) // 2)
