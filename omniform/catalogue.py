"""All systems there are to know of: the survey's rows, and what is written down here beyond them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omniform import index, survey

if TYPE_CHECKING:
    from omniform.spec import System


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One system of the catalogue.

    Attributes:
        here: whether it is written down in this library.
        type: input and output type, such as "A1".
    """

    slug: str
    title: str
    here: bool
    type: str
    date: str
    backbone: str
    encoder: str
    connector: str
    decoder: str
    resolution: str

    @property
    def modalities(self) -> frozenset[str]:
        """Read or written; of systems not here yet, as far as the survey tells."""
        if not self.here:
            return survey.row(self.slug).modalities
        system = index.system(self.slug)
        return frozenset({*system.inputs, *system.outputs})


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What a listing shows; empty fields let everything pass.

    Words match anywhere in a cell, without regard to case, spaces and punctuation.
    """

    input_type: str = ""
    output_type: str = ""
    modality: str = ""
    backbone: str = ""
    connector: str = ""

    def passes(self, entry: Entry) -> bool:
        return (
            self.input_type.upper() in entry.type
            and self.output_type in entry.type
            and (not self.modality or self.modality.lower() in entry.modalities)
            and plain(self.backbone) in plain(entry.backbone)
            and plain(self.connector) in plain(entry.connector)
        )


def plain(text: str) -> str:
    """Lower-case letters and digits only: how names are compared."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def entries() -> Iterator[Entry]:
    """The survey's rows in its order, then systems that it does not have; of the former nothing is imported."""
    stems = {index.stem(row.slug) for row in survey.rows()}
    yield from map(_of_row, survey.rows())
    if set(index.files("systems")) - stems:
        yield from (_of_system(index.system(s)) for s in index.names("systems") if s not in survey.by_slug())


def _of_row(row: survey.Row) -> Entry:
    return Entry(
        slug=row.slug, title=row.title, here=index.is_here(row.slug), type=row.type, date=row.date,
        backbone=row.llm_backbone, encoder=row.modality_encoder, connector=row.connection,
        decoder=row.modality_decoder, resolution=row.max_resolution,
    )  # fmt: skip


def _of_system(system: System) -> Entry:
    from omniform.facts import facts  # late, so that a listing of the survey alone loads no declarations

    derived = facts(system)
    return Entry(
        slug=system.slug, title=system.title, here=True, type=f"{system.input_type}{system.output_type}",
        date=system.date, backbone=derived.cell("llm_backbone"), encoder=derived.cell("modality_encoder"),
        connector=derived.cell("connection"), decoder=derived.cell("modality_decoder"),
        resolution=derived.cell("max_resolution"),
    )  # fmt: skip
