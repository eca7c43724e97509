"""The survey's table of published systems, row by row as it was printed (`survey.csv`, 99 rows)."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from omniform.index import unknown


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published system as the survey describes it; every cell is the printed string, "-" or "" where it is empty.

    Attributes:
        section: the part of the table it stands in.
        input_type: "A" or "B".
        output_type: "1", "2" or "3".
        date: "YYYY/MM".
        paper, code: addresses.
    """

    slug: str
    title: str
    section: str
    input_type: str
    output_type: str
    output_modality: str
    llm_backbone: str
    modality_encoder: str
    connection: str
    modality_decoder: str
    max_resolution: str
    date: str
    paper: str
    code: str

    @property
    def type(self) -> str:
        """Input and output type, such as "A1"."""
        return self.input_type + self.output_type

    @property
    def modalities(self) -> frozenset[str]:
        """Modalities read or written, as far as the section and the output column tell them."""
        read = {"Large Audio-Language Models": {"audio"}, "Any Modality Models": {"image", "audio"}}
        written = {"Text": "text", "Vision": "image", "Audio": "audio"}
        return frozenset(
            read.get(self.section, {"image"}) | {written[name] for name in self.output_modality.split(", ")}
        )


@cache
def rows() -> tuple[Row, ...]:
    """All rows, in the survey's order."""
    text = (files("omniform") / "survey.csv").read_text(encoding="utf-8")
    return tuple(Row(**record) for record in csv.DictReader(io.StringIO(text, newline="")))


@cache
def by_slug() -> dict[str, Row]:
    return {row.slug: row for row in rows()}


def row(slug: str) -> Row:
    """The row of one system.

    Raises:
        UnknownName: the survey has no such row; the nearest names are given.
    """
    if slug not in by_slug():
        raise unknown("system in the survey", slug, by_slug())
    return by_slug()[slug]
