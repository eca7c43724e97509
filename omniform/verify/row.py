"""Stamp "row": what the declaration says of itself equals the survey's row; where it does not, the system says why."""

from __future__ import annotations

import re

from omniform.catalogue import plain
from omniform.facts import EMPTY, Facts, facts
from omniform.index import unknown
from omniform.spec import System
from omniform.survey import Row, by_slug
from omniform.verify.check import Context, Failed

COLUMNS = (
    "input_type", "output_type", "output_modality", "llm_backbone", "modality_encoder", "connection",
    "modality_decoder", "max_resolution", "date",
)  # fmt: skip
ABBREVIATED = ("modality_encoder",)
"""Columns whose cells may leave off the end of a name ("SigLIP" for "SigLIP-SO400M/14")."""


def check(system: System, context: Context) -> str:
    """Compare all columns.

    Raises:
        Failed: a column differs and the system has no note on it, or has a note where nothing differs.
    """
    row = by_slug().get(system.slug)
    if row is None:
        raise Failed(f"the survey has no row for {system.slug}")
    for column in system.survey_notes:
        if column not in COLUMNS:
            raise unknown("column in survey_notes", column, COLUMNS)
    derived = facts(system)
    different = [c for c in COLUMNS if not agrees(row, derived, c)]
    silent = [c for c in different if c not in system.survey_notes]
    if silent:
        sides = (f"{c} is {derived.cell(c)!r} here, {getattr(row, c)!r} in the survey" for c in silent)
        raise Failed("; ".join(sides) + "; change the declaration, or say why in survey_notes")
    stale = [c for c in system.survey_notes if c not in different]
    if stale:
        raise Failed(f"survey_notes explain {', '.join(stale)}, which agree with the survey; drop the notes")
    noted = f"; noted: {'; '.join(f'{c} ({system.survey_notes[c]})' for c in different)}" if different else ""
    told = [c for c in COLUMNS if getattr(row, c)]  # an empty cell agrees with everything
    return f"{len(told) - len(different)} of {len(told)} columns equal{noted}"


def agrees(row: Row, derived: Facts, column: str) -> bool:
    """Whether every derived value of a column is one of the cell's alternatives; an empty cell says nothing."""
    cell = getattr(row, column)
    if not cell:
        return True
    values = getattr(derived, column)
    if column == "max_resolution":
        return any(value in alternatives(cell, r"/") for value in values)
    allowed = [_names(a) for a in alternatives(cell, r" / |, ")] + [_names(re.sub(r" / |, ", " + ", cell))]
    return all(_among(_names(value.replace(", ", " + ")), allowed, column in ABBREVIATED) for value in values)


def alternatives(cell: str, parting: str) -> list[str]:
    """ "A / B" and "A, B" -> A, B."""
    return [part.strip() for part in re.split(parting, cell)]


def _names(text: str) -> frozenset[str]:
    """ "A + B" -> the plain names of A and B; "-" is no name."""
    return frozenset(plain(part) for part in text.split(" + ")) if text != EMPTY else frozenset()


def _among(names: frozenset[str], allowed: list[frozenset[str]], abbreviated: bool) -> bool:
    return any(_same(names, other, abbreviated) for other in allowed)


def _same(names: frozenset[str], cell: frozenset[str], abbreviated: bool) -> bool:
    """Equal, or, where cells abbreviate, every name begins with one of the cell's and every one of them is met."""
    if names == cell or not abbreviated:
        return names == cell
    met = {c for n in names for c in cell if c and n.startswith(c)}
    return all(any(c and n.startswith(c) for c in cell) for n in names) and met == cell
