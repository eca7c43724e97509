"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

GAP = 2
"""Spaces between columns."""


def print_json(data: Any) -> None:
    """Indented JSON on stdout, nothing else."""
    print(json.dumps(data, indent=1, ensure_ascii=False))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = (), whole: Sequence[str] = ()
) -> None:
    """One row a line. In a terminal that is too narrow the widest cells are cut with "…"; in a pipe nothing is.

    Args:
        right: columns that are aligned right.
        whole: columns that are never cut.
    """
    lines = [tuple(columns), *(tuple(row) for row in rows)]
    terminal = sys.stdout.isatty()
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    if terminal:
        room = shutil.get_terminal_size().columns - GAP * (len(columns) - 1)
        widths = _fitted(widths, [i for i, name in enumerate(columns) if name not in whole], room)
    for number, line in enumerate(lines):
        cells = (_cell(cell, width, name in right) for cell, width, name in zip(line, widths, columns, strict=True))
        text = (" " * GAP).join(cells).rstrip()
        print(f"\033[1m{text}\033[0m" if terminal and not number else text)


def _fitted(widths: list[int], cut: Sequence[int], room: int) -> list[int]:
    """Widths whose sum fits, taken off the widest of the columns `cut`; none falls below 6."""
    widths = list(widths)
    while sum(widths) > room and cut and widths[widest := max(cut, key=widths.__getitem__)] > 6:
        widths[widest] -= 1
    return widths


def _cell(text: str, width: int, right: bool) -> str:
    cut = text if len(text) <= width else text[: width - 1] + "…"
    return cut.rjust(width) if right else cut.ljust(width)


def print_pairs(pairs: Mapping[str, str], indent: int = 0) -> None:
    """Name and value a line, the values aligned."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        print(f"{' ' * indent}{name:<{width}}  {value}".rstrip())


def count(number: float) -> str:
    """A number in thousands: 20979712 -> "21.0 M"."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:.{1 if abs(number) < 100 * size else 0}f} {unit}"
    return f"{number:g}"


def memory_size(number: float) -> str:
    """A size in binary units: 378535936 -> "361 MiB"."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.{1 if number < 100 * size else 0}f} {unit}"
    return f"{number:g} B"


def taken(positions: int, views: int, seconds: float = 0.0, heard: float = 0.0) -> str:
    """What a medium takes: "576 in 1 view"; of a sound also how many of its seconds are heard, where not all are."""
    cut = f", {heard:.3g} s are heard" if heard < 0.999 * seconds else ""
    return f"{positions:,} in {views} view{'s'[: views > 1]}{cut}"
